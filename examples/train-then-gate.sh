#!/usr/bin/env bash
# CI gate: train, measure the NLL, and fail with exit code 7 if it is above a limit.
# Prints the NLL; the whole report goes to the file in REPORT.
#
# LIMIT: bits/dim. IMAGES: number of training images. SCORED: number of scored test images. REPORT: JSON file.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
report=${REPORT:-$work/nll.json}

best=$(fame train pixelcnn --size tiny --dataset mnist --images "${IMAGES:-64}" --batch-size 16 --set valid_images=16 -o "$work/run" -q)
fame evaluate-nll "$best" --limit "${SCORED:-32}" --fail-above "${LIMIT:-1.2}" --json > "$report"
python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["bits_per_dim"])' "$report"
