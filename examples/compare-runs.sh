#!/usr/bin/env bash
# Sort the runs of a folder by NLL, best first: folder, tab, bits/dim.
#
# RUNS: folder of runs of one data set; fame train writes to runs/. IMAGES: number of scored test images.
set -euo pipefail

for run in "${RUNS:-runs}"/*/; do
    bits=$(fame evaluate-nll "$run" --limit "${IMAGES:-16}" -q)
    printf '%s\t%s\n' "$(basename "$run")" "$bits"
done | sort -t$'\t' -k2 -g
