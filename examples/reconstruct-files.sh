#!/usr/bin/env bash
# Print the reconstruction PSNR of each image file in a folder and its subfolders: path, tab, decibels.
#
# MODEL: checkpoint or name of weights. PHOTOS: folder with PNG files of the model's size.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# With jq instead of Python: jq -r '.images[] | [.source, .psnr] | @tsv'
find "${PHOTOS:-photos}" -name '*.png' -print0 | sort -z |
    xargs -0 fame reconstruct "${MODEL:-fame-mnist}" --convert --decoder mean -o "$work/pairs.png" --force -q --json |
    python3 -c '
import json, sys
for line in sys.stdin:
    for image in json.loads(line)["images"]:
        print(image["source"], image["psnr"], sep="\t")
'
