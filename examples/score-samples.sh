#!/usr/bin/env bash
# Score one model's samples by another over a pipe: no file is written, and no process reads data.
# Prints bits/dim.
#
# ARTIST, CRITIC: checkpoints or names of weights, for images of the same shape. IMAGES: number of samples.
set -euo pipefail

fame sample "${ARTIST:-fame-mnist}" -n "${IMAGES:-16}" -o - -q |
    fame evaluate-nll "${CRITIC:-fame-mnist}" --data - -q
