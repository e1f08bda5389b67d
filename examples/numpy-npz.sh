#!/usr/bin/env bash
# Write samples as an npz file for FID tools: one array arr_0, uint8, (N, H, W, C).
# Prints dtype, shape and mean.
#
# MODEL: checkpoint or name of weights. IMAGES: number of samples. PYTHON: interpreter with NumPy.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fame sample "${MODEL:-fame-mnist}" -n "${IMAGES:-16}" -o "$work/samples.npz" -q > /dev/null
"${PYTHON:-python3}" -c '
import numpy, sys
images = numpy.load(sys.argv[1])["arr_0"]
print(images.dtype, images.shape, round(float(images.mean()), 3))
' "$work/samples.npz"
