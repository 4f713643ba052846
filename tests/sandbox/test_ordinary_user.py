"""Root and an ordinary user are cut off in different ways, so root runs the attacks once more as nobody."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.arena import FOLDER

ROOT = Path(__file__).parents[2]
FILES = ("tests/sandbox/test_attacks.py", "tests/sandbox/test_promises.py")
NOT_OF_ROOT = "not of_root and not root_without"
NOBODY = 65534
SHOW = """
set -e
for path in "$@"; do mkdir -p "$STAGING$path"; mount --bind "$path" "$STAGING$path"; done
for folder in $COVERED; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
for path in "$@"; do mkdir -p "$path"; mount --bind "$STAGING$path" "$path"; done
"""
"""In a mount namespace of its own, make folders visible whose parents are private to root."""


@pytest.fixture
def workplace() -> Iterator[Path]:
    """A copy of the code, and a folder to write in, for everybody."""
    with tempfile.TemporaryDirectory(dir="/var/lib") as name:
        folder = Path(name)
        for part in ("stages", "pipeline", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        (folder / "home").mkdir()
        subprocess.run(["chmod", "-R", "a+rwX", folder], check=True)
        yield folder


def command_as_nobody(command: list[str], staging: Path) -> list[str]:
    shown = sorted({str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix)} | {sys.prefix})
    covered = {private for path in shown if (private := _first_private(Path(path)))}
    drop = f"exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --inh-caps=-all -- {shlex.join(command)}"
    settings = f"STAGING={staging}\nCOVERED='{' '.join(covered)}'\n"
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", settings + SHOW + drop, "sh", *shown]


def _first_private(path: Path) -> str | None:
    return next((str(each) for each in reversed(path.parents) if not each.stat().st_mode & 1), None)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs the attacks directly")
def test_the_attacks_as_an_ordinary_user(workplace: Path):
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES, "-k", NOT_OF_ROOT]
    environment = {"PATH": os.environ["PATH"], "HOME": str(workplace / "home"), FOLDER: str(workplace)}
    result = subprocess.run(
        command_as_nobody(command, workplace / "home"), cwd=workplace, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-1000:]
    assert "passed" in result.stdout and "skipped" not in result.stdout, result.stdout[-1000:]
