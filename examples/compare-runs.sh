#!/usr/bin/env bash
# The runs of a folder by their NLL, the best first: folder, tab, bits/dim.
#
# RUNS: folder of run folders of one data set; runs/ is where fame train puts them. IMAGES: how many of the
# test set are scored.
set -euo pipefail

for run in "${RUNS:-runs}"/*/; do
    bits=$(fame evaluate-nll "$run" --limit "${IMAGES:-16}" -q)
    printf '%s\t%s\n' "$(basename "$run")" "$bits"
done | sort -t$'\t' -k2 -g
