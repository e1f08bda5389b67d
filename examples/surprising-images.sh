#!/usr/bin/env bash
# Print the test images with the highest NLL, as CSV: index, start of the hash, bits/dim, nats, ...
#
# MODEL: checkpoint or name of weights. IMAGES: number of scored test images. TOP: number of printed images.
set -euo pipefail

# head would close the pipe early, and pipefail would report sort as failed; awk reads to the end.
fame evaluate-nll "${MODEL:-fame-mnist}" --limit "${IMAGES:-32}" --per-image - -q |
    awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "bits_per_dim") bits = i; next } { print $bits "," $0 }' |
    sort -t, -k1 -rg |
    awk -v top="${TOP:-5}" 'NR <= top' |
    cut -d, -f2-
