#!/usr/bin/env bash
# Make sure that commands exist, from Debian packages: requirements/debian.sh chromium sbatch=slurm-wlm
# (COMMAND, or COMMAND=PACKAGE). Where it may not install, it says what is missing and goes on.
set -euo pipefail

missing=()
for wanted in "$@"; do
    command -v "${wanted%%=*}" >/dev/null || missing+=("${wanted##*=}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "debian: installing ${missing[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 && rm "$log" && exit 0
    tail -5 "$log" >&2
fi
echo "debian: missing: ${missing[*]}; tests that need them will fail (sudo apt-get install -y ${missing[*]})" >&2
