#!/usr/bin/env bash
# Create .venv and install exactly one lock file into it. A second call sees the stamp and does nothing.
#   requirements/setup.sh           the lock for this machine: cuda.lock where nvidia-smi finds a GPU, else cpu.lock
#   LOCK=requirements/cuda.lock requirements/setup.sh      another one, such as on a login node without a GPU
# VENV names another folder than .venv, PYTHON another interpreter than the first suitable one.
set -euo pipefail
cd "$(dirname "$0")/.."
here=requirements
venv=${VENV:-.venv}
stamp=$venv/.installed
pytorch_cpu_index=https://download.pytorch.org/whl/cpu

fail() { echo "setup: $*" >&2; exit 2; }

lock_for_this_machine() {
    if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then echo "$here/cuda.lock"; else echo "$here/cpu.lock"; fi
}

identity() {  # what the stamp holds: lock file, hash of its pins, Python version
    echo "$lock $(sed 's/ *#.*//' "$lock" | sha256sum | cut -d' ' -f1) $("$venv/bin/python" --version 2>&1)"
}

find_python() {
    local name
    for name in ${PYTHON:-python3.11 python3.12 python3}; do
        # Running it, because a name on the PATH may be a launcher of something that is not installed.
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    fail "no Python 3.11 or 3.12 (tried ${PYTHON:-python3.11, python3.12, python3}); on Debian: apt-get install -y python3 python3-venv python3-dev"
}

check_compiler() {
    command -v g++ >/dev/null ||
        fail "no C++ compiler (g++), which DeepSpeed needs for its communication op; on Debian: apt-get install -y g++"
}

check_python_parts() {  # Debian ships these two parts of Python as packages of their own
    "$1" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$1 cannot create virtual environments; on Debian: apt-get install -y python3-venv"
    "$1" -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("include"), "Python.h").stat()' 2>/dev/null ||
        fail "$1 has no C headers (Python.h), which DeepSpeed needs for its communication op; on Debian: apt-get install -y python3-dev"
}

create_venv() {
    local python
    python=$(find_python)
    check_python_parts "$python"
    "$python" -m venv --clear "$venv"
}

pinned() { sed -n "s/^\($1==[^ ;]*\).*/\1/p" "$lock"; }

install_uv() {
    local version
    version=$("$venv/bin/uv" --version 2>/dev/null | cut -d' ' -f2 || true)
    [ "uv==$version" = "$(pinned uv)" ] || "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$(pinned uv)"
}

uv_pip() { VENV=$venv "$here/uv.sh" pip "$@" --python "$venv/bin/python"; }

install_cpu_torch() {  # the configured indexes first, PyTorch's own only where they do not have this build
    local torch
    torch=$(pinned torch)
    [[ $torch == *+cpu ]] || return 0
    uv_pip install --quiet --no-deps "$torch" 2>/dev/null ||
        uv_pip install --no-deps --default-index "$pytorch_cpu_index" "$torch"
}

exec 9<"$here/setup.sh"  # two set-ups at once: the second one waits, then finds the work done
flock 9

lock=${LOCK:-$(lock_for_this_machine)}
[ -f "$lock" ] || fail "no lock file $lock"
[ "$(cat "$stamp" 2>/dev/null)" != "$(identity 2>/dev/null)" ] || exit 0

check_compiler
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || create_venv
rm -f "$stamp"
echo "setup: installing $lock into $venv" >&2
install_uv
install_cpu_torch
uv_pip sync --compile-bytecode "$lock"  # once here instead of at the first start of everything
identity >"$stamp"
