"""Real benchmark data for tests that need it: never part of the project, so they skip where it is not there."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("PIPELINE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
"""A mirror folder as docs/benchmarks.md lays it out."""


def shared_data(name: str = "") -> Path:
    """A file or folder below it; skips the test where it is missing."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"needs the benchmark data {name or 'folder'}: point PIPELINE_TEST_DATA at a mirror that has it")
    return path
