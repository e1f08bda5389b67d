#!/usr/bin/env bash
# Samples as a folder of PNG files named by seed, with manifest.jsonl, and then as data.
# Prints the number of images, and the bits/dim that they cost the model.
#
# MODEL: checkpoint or name of weights. IMAGES: how many.
set -euo pipefail

model=${MODEL:-fame-mnist}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Beside a folder called train, all images in one called test are the test split; else each tenth would be.
mkdir "$work/train"
fame sample "$model" -n "${IMAGES:-16}" -o "$work/test" -q > /dev/null
wc -l < "$work/test/manifest.jsonl"
fame evaluate-nll "$model" --dataset folder --data "$work" -q
