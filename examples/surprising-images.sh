#!/usr/bin/env bash
# The test images that surprise a model most, as CSV: index, start of the hash, bits/dim, nats, ...
#
# MODEL: checkpoint or name of weights. IMAGES: how many of the test set are scored. TOP: how many are shown.
set -euo pipefail

# awk, unlike head, reads to the end, so that sort is not cut off: pipefail would take that for a failure.
fame evaluate-nll "${MODEL:-fame-mnist}" --limit "${IMAGES:-32}" --per-image - -q |
    sort -t, -k3 -rg |
    awk -v top="${TOP:-5}" 'NR <= top'
