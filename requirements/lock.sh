#!/usr/bin/env bash
# Compile cuda.lock and cpu.lock from the .in files: the same versions in both wherever a build exists.
# Pins that still fit are kept; `requirements/lock.sh --upgrade` (or --upgrade-package NAME) takes newer ones.
set -euo pipefail
cd "$(dirname "$0")/.."
here=requirements
pytorch_cpu_index=https://download.pytorch.org/whl/cpu

compile() {  # compile OUT IN...: without anything that tells of the machine it ran on
    "$here/uv.sh" pip compile --quiet --python-version 3.11 --annotation-style line \
        --no-header --no-emit-index-url --no-emit-find-links --output-file "$@" >/dev/null
}

compile_cpu() {  # these three do not import beside the CPU build of torch, and vLLM serves text without them
    compile "$1" "$here/cpu.in" \
        --no-emit-package torchvision --no-emit-package torchaudio --no-emit-package torchcodec "${@:2}"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile "$work/data.lock" --no-deps "$here/data.in"

# An output file that exists already is uv's list of preferred versions: cuda.lock prefers its last pins, cpu.lock those of cuda.lock.
cp "$here/cuda.lock" "$work/cuda.lock"
compile "$work/cuda.lock" "$here/cuda.in" "$@"
grep -v '^torch==' "$work/cuda.lock" >"$work/cpu.lock"
compile_cpu "$work/cpu.lock" "$@" 2>/dev/null ||
    UV_INDEX="${UV_INDEX:-} $pytorch_cpu_index" compile_cpu "$work/cpu.lock" "$@"

for name in cuda cpu; do
    grep -hv '^\(#\|$\)' "$work/$name.lock" "$work/data.lock" | sed 's/ *#/  #/' >"$here/$name.lock"
done
