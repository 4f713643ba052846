"""The engine is tested with toy stages, through the command line a user has."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def toy_stages(monkeypatch):
    monkeypatch.setenv("PIPELINE_STAGES", "tests.pipeline.toy")


@pytest.fixture
def recipe(tmp_path) -> Callable[[str], Path]:
    """Write a recipe's text and return its path."""

    def write(text: str, name: str = "toy.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def command(tmp_path) -> Callable[..., list[str]]:
    """The argument list of a pipeline command on this test's store."""
    return lambda *words: [sys.executable, "-m", "pipeline", *map(str, words), "--store", str(tmp_path / "store")]


@pytest.fixture
def pipeline(command) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a pipeline command; its output as text."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*words), cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=120
        )

    return run
