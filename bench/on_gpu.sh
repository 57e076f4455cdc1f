#!/bin/sh
# Builds, tests, sanitizes and times what needs a GPU, in less than nine minutes; see bench/gpu/check.py.
# sh bench/on_gpu.sh [FOLDER for what it finds] [--in-place: without pip]
set -eu
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m bench.gpu.check "$@"
