#!/usr/bin/env bash
# A training in a queue that may stop it: exit code 75 means that all is saved and the same command goes on.
# Prints the path of the best checkpoint so far after each start.
#
# RUN: folder of the run, which stays; a temporary one without it. IMAGES: seen in training.
# MAX_TIME: of one start, 3h for example; by default each start takes a single step.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

until fame train pixelcnn --size tiny --dataset mnist --images "${IMAGES:-32}" --batch-size 16 --set valid_images=16 \
    --max-time "${MAX_TIME:-0s}" -o "${RUN:-$work/run}" -q; do
    code=$?
    [[ $code == 75 ]] || exit "$code"
    echo "stopped in time, goes on" >&2
done
