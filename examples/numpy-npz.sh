#!/usr/bin/env bash
# Samples as an npz file, as tools that measure FID read it: one array arr_0, uint8, (N, H, W, C).
# Prints type, shape and mean.
#
# MODEL: checkpoint or name of weights. IMAGES: how many. PYTHON: an interpreter with NumPy.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fame sample "${MODEL:-fame-mnist}" -n "${IMAGES:-16}" -o "$work/samples.npz" -q > /dev/null
"${PYTHON:-python3}" -c '
import numpy, sys
images = numpy.load(sys.argv[1])["arr_0"]
print(images.dtype, images.shape, round(float(images.mean()), 3))
' "$work/samples.npz"
