#!/usr/bin/env bash
# Writes requirements-lock.txt: everything `make setup` installs, for Python 3.11 and later.
#
# torch is left out with its CUDA packages: tools/setup.sh chooses its build for the machine.
# lm-eval and inspect-ai are left out while no test or command here imports them: they are 90 packages.
set -eu
cd "$(dirname "$0")/.."
mkdir -p build
printf 'torch\nlm-eval\ninspect-ai\n' >build/lock-excludes.txt
.venv/bin/uv pip compile pyproject.toml --extra torch --extra train --extra evals --extra cpu --extra agents --extra commons --extra dev \
    --universal --python-version 3.11 --excludes build/lock-excludes.txt --upgrade \
    --no-header --quiet --output-file requirements-lock.txt
