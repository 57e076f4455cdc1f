#!/bin/sh
# Builds, checks and times what needs a GPU, in two acts; see bench/gpu/check.py.
# bash bench/on_gpu.sh [FOLDER for what it finds] [--act one|two|both] [--require-gpu] [--in-place: without pip]
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m bench.gpu.check "$@"
