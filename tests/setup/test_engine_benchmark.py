"""The benchmark of the engine runs; its numbers are the README's business, not a test's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_table_has_a_number_for_every_bar(tmp_path):
    command = [sys.executable, "-m", "benchmarks.engine", "--rounds", "1", "--no-peers", "--store", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    for name in ("`--help`", "rerun of 6 steps", "plan of 1,000 steps", "overhead per executed step"):
        assert re.search(rf"^\| {re.escape(name)}.* \| -?\d+\.\d+ s \|.*\| \d\.\d\d s \|", done.stdout, re.MULTILINE)
