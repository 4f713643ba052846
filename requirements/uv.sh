#!/usr/bin/env bash
# Run the virtual environment's uv with the package indexes that pip is configured for (uv does not read pip's settings).
# UV_* variables that are already set win.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
settings=$("$venv/bin/python" -m pip config list)

pip_setting() {  # the value of one pip option: PIP_* variables before [install] before [global]
    local section value
    for section in :env: install global; do
        value=$(sed -n "s/^$section\.$1='\(.*\)'\$/\1/p" <<<"$settings")
        [ -z "$value" ] || { echo "${value//'\n'/ }" | xargs; return; }
    done
}

hand_on() {  # hand_on VARIABLE PIP_OPTION [SEPARATOR]
    local value
    value=$(pip_setting "$2")
    [ -n "${!1:-}" ] || [ -z "$value" ] || export "$1=${value// /${3:- }}"
}

hand_on UV_DEFAULT_INDEX index-url
hand_on UV_EXTRA_INDEX_URL extra-index-url
hand_on UV_FIND_LINKS find-links ,
hand_on UV_INSECURE_HOST trusted-host
hand_on UV_HTTP_TIMEOUT default-timeout
hand_on UV_HTTP_TIMEOUT timeout
hand_on SSL_CERT_FILE cert
hand_on ALL_PROXY proxy
export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}  # as pip: an exact pin may come from any configured index
export UV_PYTHON_DOWNLOADS=never

case $(pip_setting no-index) in 1 | true | True | yes | on) set -- "$@" --no-index ;; esac

exec "$venv/bin/uv" "$@"
