#!/usr/bin/env bash
# Makes .venv with everything the demo and the tests need. Safe to run again.
#   PYTHON=/path/to/python3.12 tools/setup.sh     takes that Python
#   TORCH_VERSION=2.12.0 tools/setup.sh           takes that torch
set -eu
cd "$(dirname "$0")/.."

TORCH_VERSION="${TORCH_VERSION:-2.13.0}"
CPU_INDEX="https://download.pytorch.org/whl/cpu"
PIP=".venv/bin/python -m pip --disable-pip-version-check -qq"

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.11 or later found; install one, or name one: PYTHON=/path/to/python make setup"
}

# Debian and Ubuntu keep the venv module's ensurepip in a package of its own.
install_venv_package() {
    local package="${1##*/}-venv" sudo=""
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -ne 0 ]; then
        sudo="sudo -n"
        $sudo true 2>/dev/null || return 1
    fi
    say "installing $package"
    $sudo apt-get update -qq && $sudo apt-get install -y -qq "$package" >/dev/null
}

make_venv() {
    local python
    python="$(find_python)"
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv >/dev/null 2>&1 && return
    install_venv_package "$python" ||
        die "'$python -m venv' does not work; as root: apt-get install ${python##*/}-venv, then run make again"
    "$python" -m venv --clear .venv
}

# The CPU build is a tenth of the size of the CUDA build: take it wherever no NVIDIA GPU is seen.
install_torch() {
    local torch="torch==$TORCH_VERSION"
    if .venv/bin/python -c 'import torch' 2>/dev/null; then
        say "torch is installed already"
    elif $PIP install --no-index --no-deps --dry-run "$torch" >/dev/null 2>&1; then
        say "installing $torch from a wheel on this machine"
        $PIP install "$torch"
    elif [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
        say "installing $torch, CPU build (about 200 MB)"
        $PIP install "$torch" --extra-index-url "$CPU_INDEX" --retries 2 || $PIP install "$torch"
    else
        say "installing $torch"
        $PIP install "$torch"
    fi
}

.venv/bin/python -m pip --version >/dev/null 2>&1 || make_venv
install_torch
say "installing the locked packages"
$PIP install -r requirements-lock.txt
$PIP install --no-deps --editable .
touch .venv/setup-done
say "done"
