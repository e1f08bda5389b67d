#!/usr/bin/env bash
# Train in a job queue with a time limit: exit code 75 means saved, and the same command resumes.
# Prints the path of the best checkpoint so far after each start.
#
# RUN: run folder, which is kept; default: a temporary one. IMAGES: number of training images.
# MAX_TIME: time limit of one start, such as 3h; by default each start takes a single step.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

until fame train pixelcnn --size tiny --dataset mnist --images "${IMAGES:-32}" --batch-size 16 --set valid_images=16 \
    --max-time "${MAX_TIME:-0s}" -o "${RUN:-$work/run}" -q; do
    code=$?
    [[ $code == 75 ]] || exit "$code"
    echo "stopped in time, goes on" >&2
done
