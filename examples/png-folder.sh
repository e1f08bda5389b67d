#!/usr/bin/env bash
# Write samples as a folder of PNG files named by seed, with manifest.jsonl, and score it as a data set.
# Prints the number of images, and their bits/dim under the model.
#
# MODEL: checkpoint or name of weights. IMAGES: number of samples.
set -euo pipefail

model=${MODEL:-fame-mnist}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Beside a folder named train, all images in test are the test split. Without it, a hash would choose a tenth.
mkdir "$work/train"
fame sample "$model" -n "${IMAGES:-16}" -o "$work/test" -q > /dev/null
wc -l < "$work/test/manifest.jsonl"
fame evaluate-nll "$model" --dataset folder --data "$work" -q
