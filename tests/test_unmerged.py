"""Two trained adapters and their base, unmerged, on one real server: from recipe to report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import plan as plans
from pipeline.store import Store
from tests.stages.conftest import write_tiny_model

ROOT = Path(__file__).parents[1]
RECIPE = """
name: unmerged
seed: 0
model: {source: {kind: local, path: model}}
init: {adapter: {method: nlora, rank: 4}}
train: {learning_rate: 3e-2, global_batch_size: 4, num_epochs: 16}
serve: {dtype: float32, max_model_len: 128, max_num_seqs: 4, cpu_kv_cache_gib: 1, adapters: lora}
tracks:
  sums:
    data: {source: {kind: files, train: sums.jsonl}}
    tokenize: &tokenize
      format: {kind: prompt_response, prompt: question, response: answer}
      template: {kind: chat}
      max_length: 64
    benchmarks:
      sums: {ask: {name: questions, file: sums.jsonl, max_tokens: 8}, score: {name: questions, rule: contains}}
  words:
    data: {source: {kind: files, train: words.jsonl}}
    tokenize: *tokenize
    benchmarks:
      words: {ask: {name: questions, file: words.jsonl, max_tokens: 8}, score: {name: questions, rule: contains}}
benchmarks:
  both: {ask: {name: questions, file: both.jsonl, max_tokens: 8}, score: {name: questions, rule: contains}}
resources: {num_processes: 1}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_adapters_are_served_beside_their_base(tmp_path: Path):
    write_tiny_model(tmp_path / "model", num_attention_heads=2, num_key_value_heads=1)
    rows = {
        "sums": [{"question": f"{a} + {a} ?", "answer": "four"} for a in range(10)],
        "words": [{"question": f"the apples {a} ?", "answer": "two pears"} for a in range(10)],
    }
    for name, own in {**rows, "both": rows["sums"][:4] + rows["words"][:4]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    (tmp_path / "unmerged.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "pipeline", "run", "unmerged.yaml", "--store", "store"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("server for") == 2, "started once: a line when it starts and one when it is ready"
    answers = {name: _answers(tmp_path, name) for name in ("base/both", "sums/both", "words/both")}
    assert len({json.dumps(each) for each in answers.values()}) == 3
    assert not list((tmp_path / "store").glob("merge"))


def _answers(folder: Path, name: str) -> list[str]:
    step = plans.load(folder / "unmerged.yaml", []).find(f"{name}/generate")
    artifact = Store(folder / "store").artifact(step.stage, step.fingerprint)
    return [json.loads(line)["text"] for line in (artifact / "answers.jsonl").open()]
