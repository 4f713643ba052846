"""What is recorded beside a result, and never hashed: code version, packages, hardware."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """{"git_commit", "git_dirty", "python", "packages": {name: version}, "hardware": {...}}; unknown parts are None."""
    from pipeline.machine import describe

    return {**_git(), "python": platform.python_version(), "packages": installed_packages(), "hardware": describe()}


def installed_packages() -> dict[str, str]:
    """Every installed distribution and its version, from the names of the metadata folders (no file is opened)."""
    found: dict[str, str] = {}
    for folder in sys.path:
        for path in Path(folder).glob("*.dist-info") if folder else []:
            name, _, version = path.name.removesuffix(".dist-info").partition("-")
            found.setdefault(name.lower().replace("_", "-"), version)
    return dict(sorted(found.items()))


def _git() -> dict[str, Any]:
    """The commit of this source tree; None when it is an installed package or git is missing."""
    commit = _git_output("rev-parse", "HEAD")
    status = _git_output("status", "--porcelain")
    return {"git_commit": commit, "git_dirty": None if status is None else bool(status)}


def _git_output(*words: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *words]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
