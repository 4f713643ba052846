"""Two tracks of a tiny model, side by side and one after the other: the same results, bit for bit."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.machine import cpu_count
from tests.stages.conftest import write_tiny_model

ROOT = Path(__file__).parents[1]
RECIPE = """
name: two
seed: 0
model: {source: {kind: local, path: model}}
init: {adapter: {method: nlora, rank: 4, residual: subtract}}
train: {learning_rate: 1e-3, global_batch_size: 4, max_steps: 3, zero_stage: 0}
evaluate_base: false
tracks:
  apples:
    data: {source: {kind: files, train: apples.jsonl}}
    tokenize: &tokenize
      format: {kind: prompt_response, prompt: question, response: answer}
      template: {kind: chat}
      max_length: 64
  pears:
    data: {source: {kind: files, train: pears.jsonl}}
    tokenize: *tokenize
resources: {num_processes: 1, num_threads: 1}
"""
FRUITS = ("apples", "pears")
STEPS = ["prepare_model", "init_adapter"]
STEPS += [f"{fruit}/{step}" for step in ("prepare_data", "tokenize", "train") for fruit in FRUITS]
MEASURED = {"init_report.json", "metrics.jsonl"}
"""Files that also hold times, or losses of probes, whose last digits depend on the number of threads."""


def digests(store: Path, stage: str) -> dict[str, str]:
    """File of an artifact -> its sha256."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.glob(f"{stage}/*/*"))
        if path.name not in {*MEASURED, "manifest.json"}
    }


def at_work(store: Path) -> list[tuple[float, float]]:
    """When the trainings began and ended, in seconds since the epoch."""
    folders = [path.parent for path in store.glob("train/*/manifest.json")]
    lengths = [json.loads((folder / "manifest.json").read_text())["duration_seconds"] for folder in folders]
    ends = [(folder / "manifest.json").stat().st_mtime for folder in folders]
    return [(end - length, end) for end, length in zip(ends, lengths, strict=True)]


@pytest.mark.slow
@pytest.mark.skipif(cpu_count() < 2, reason="steps beside each other need a core each")
def test_results_do_not_depend_on_what_runs_beside(tmp_path):
    write_tiny_model(tmp_path / "model")
    for fruit in FRUITS:
        rows = [
            {"question": f"{a} {fruit} and {b} more , how many ?", "answer": f"{a + b}"} for a in (1, 2) for b in (3, 4)
        ]
        (tmp_path / f"{fruit}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "two.yaml").write_text(RECIPE)
    for number in (1, 2):
        words = ["run", str(tmp_path / "two.yaml"), f"--max-parallel={number}", f"--store={tmp_path / str(number)}"]
        words += [word for step in STEPS for word in ("--only", step)]
        done = subprocess.run([sys.executable, "-m", "pipeline", *words], cwd=ROOT, env=dict(os.environ),
                              capture_output=True, text=True, timeout=600)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    stages = sorted(path.name for path in (tmp_path / "1").iterdir() if list(path.glob("*/manifest.json")))
    assert {"init_adapter", "tokenize", "train"} <= {*stages}
    for stage in stages:
        one, two = digests(tmp_path / "1", stage), digests(tmp_path / "2", stage)
        assert one == two and one
    (_, end), (start, _) = sorted(at_work(tmp_path / "1"))
    assert end <= start + 1.0
    (_, end), (start, _) = sorted(at_work(tmp_path / "2"))
    assert start < end
