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
    command = ["git", "-C", str(Path(__file__).parent), "status", "--porcelain=v2", "--branch"]
    try:
        lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": None, "git_dirty": None}
    commits = [line.removeprefix("# branch.oid ") for line in lines if line.startswith("# branch.oid ")]
    return {"git_commit": commits[0] if commits else None, "git_dirty": any(line[:1] != "#" for line in lines)}
