"""The whole pipeline on a tiny random model: killed in every stage, continued, repeated, changed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import plan as plans
from pipeline.step import Step
from pipeline.store import Store
from tests.stages.conftest import write_tiny_model

ROOT = Path(__file__).parents[1]
RECIPE = """
name: tiny
seed: 0
model: {source: {kind: local, path: model}}
init:
  adapter: {method: nlora, rank: 4, residual: subtract}
train: {learning_rate: 1e-3, global_batch_size: 4, max_steps: 40, num_epochs: 7, checkpoint_every_steps: 2}
serve: {dtype: float32, max_model_len: 256, max_num_seqs: 8, cpu_kv_cache_gib: 1}
evaluate_base: false
tracks:
  math:
    data: {source: {kind: files, train: train.jsonl, test: test.jsonl}}
    decontaminate: {}
    tokenize:
      format: {kind: prompt_response, prompt: question, response: answer}
      template: {kind: chat}
      max_length: 64
    benchmarks:
      arithmetic:
        ask: {name: lm_eval, task: arithmetic_word_problems, max_tokens: 8}
        data: track
      mt_bench:
        ask: {name: mt_bench, questions: questions.jsonl, max_tokens: 8}
        judge: {prompts: demo, max_tokens: 8, num_retries: 0}
resources: {num_processes: 2}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("end_to_end")
    write_tiny_model(
        folder / "model", num_attention_heads=2, num_key_value_heads=1
    )  # heads of 32, which vLLM can serve
    rows = [
        {"question": f"{a} apples + {b} pears . how many ?", "answer": f"{a + b}"} for a in range(6) for b in range(4)
    ]
    tests = [{**row, "answer": f"#### {row['answer']}"} for row in rows[:6]]
    question = {"question_id": 1, "category": "math", "turns": ["how many apples ?", "how many pears ?"]}
    question["reference"] = ["three apples", "two pears"]
    for name, content in (("train", rows), ("test", tests), ("questions", [question])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder / "tiny.yaml"


@pytest.fixture(scope="module")
def finished(recipe: Path) -> tuple[Path, int]:
    """The recipe after a run that was killed in a step of each stage, and how often that hit a step at work.

    Training is first stopped twice, as Slurm and a user do it, and goes on each time.
    """
    kills = 0
    for step in {step.stage: step for step in plans.load(recipe, []).steps}.values():
        if step.stage == "train":
            _stopped_in_training(step, recipe, [signal.SIGUSR2, signal.SIGTERM])
        kills += _killed_in(step, recipe)
    last = _pipeline("run", recipe)
    assert last.returncode == 0, last.stdout + last.stderr
    return recipe, kills


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_in_every_stage_it_still_finishes(finished: tuple[Path, int]):
    recipe, kills = finished
    assert kills >= 6
    assert _pipeline("verify", recipe).returncode == 0
    assert not _processes_of(recipe)
    report = next((recipe.parent / "store" / "report").glob("*/report.html")).read_text()
    assert "arithmetic" in report


@pytest.mark.slow
def test_what_is_served_is_what_was_merged_and_no_test_question_was_trained_on(finished: tuple[Path, int]):
    recipe, _ = finished
    found = {stage: _metrics(recipe, stage) for stage in ("generate", "decontaminate")}
    assert [each["served_token_agreement"] for each in found["generate"]] == [1.0, 1.0]
    assert all(each["served_logprob_error"] < 1e-3 for each in found["generate"])
    assert [each["train"]["removed"] for each in found["decontaminate"]] == [{"arithmetic": 6}]


@pytest.mark.slow
def test_a_second_run_does_nothing_and_says_so(finished: tuple[Path, int]):
    recipe, _ = finished
    again = _pipeline("run", recipe)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("tracks.math.benchmarks.arithmetic.score={name: lm_eval, bootstrap_iters: 10}", {"score", "report"}),
        ("train.learning_rate=2e-3", {"train", "merge", "generate", "judge", "score", "report"}),
        ("serve.max_num_seqs=4", set()),
        ("resources.num_processes=1", set()),
    ],
)
def test_a_change_redoes_what_depends_on_it_and_nothing_else(finished: tuple[Path, int], change: str, redone: set[str]):
    recipe, _ = finished
    store = Store(recipe.parent / "store")
    steps = plans.load(recipe, [change]).steps
    assert {step.stage for step in steps if not store.is_sealed(step.stage, step.fingerprint)} == redone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "files"),
    [
        (("math/train",), {"adapter_config.json", "adapter_model.safetensors", "template.json", "export.json"}),
        (("math/train", "--format", "merged"), {"config.json", "model.safetensors", "tokenizer.json", "export.json"}),
        (("math/merge",), {"config.json", "model.safetensors", "tokenizer.json", "export.json"}),
    ],
)
def test_what_was_trained_can_be_exported(finished: tuple[Path, int], tmp_path: Path, words: tuple, files: set[str]):
    done = _pipeline("export", finished[0], *words, "--to", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert files <= {path.name for path in (tmp_path / "out").iterdir()}


def _metrics(recipe: Path, stage: str) -> list[dict[str, Any]]:
    manifests = (recipe.parent / "store" / stage).glob("*/manifest.json")
    return [json.loads(each.read_text())["metrics"] for each in manifests]


def _killed_in(step: Step, recipe: Path) -> bool:
    """Run, kill -9 the run as soon as `step` is at work, and check that what was finished stays untouched."""
    store = Store(recipe.parent / "store")
    sealed = {path: _identity(path) for path in store.artifacts()}
    run = subprocess.Popen(_command("run", recipe), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    partial, done = store.partial(step.stage, step.fingerprint), store.directory(step.stage, step.fingerprint)
    _wait_for(lambda: partial.exists() or done.exists() or run.poll() is not None, 300)
    time.sleep(0.3)
    was_at_work = partial.exists()
    run.send_signal(signal.SIGKILL)
    run.wait()
    _wait_for(lambda: not _processes_of(recipe), 30)
    assert {path: _identity(path) for path in sealed} == sealed
    return was_at_work


def _stopped_in_training(step: Step, recipe: Path, numbers: list[signal.Signals]) -> None:
    """Send the run each signal while it trains: it ends as resumable, all ranks saved after the step it had come to."""
    partial = Store(recipe.parent / "store").partial(step.stage, step.fingerprint)
    num_done = 0
    for number in numbers:
        run = subprocess.Popen(_command("run", recipe), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        _wait_for(lambda: _num_steps(partial) > num_done or run.poll() is not None, 300)  # noqa: B023
        run.send_signal(number)
        assert "continue with: python -m pipeline run" in run.communicate(timeout=120)[1]
        assert run.returncode == 75
        newest = max((partial / ".checkpoints").glob("step-*[0-9]"))
        num_done = _num_steps(partial)
        assert 0 < num_done < 40
        assert newest.name == f"step-{num_done:08d}"
        assert {file.name for file in newest.glob("random-*")} == {"random-0.safetensors", "random-1.safetensors"}
        assert not _processes_of(recipe)


def _num_steps(partial: Path) -> int:
    file = partial / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def _identity(artifact: Path) -> tuple[int, int]:
    stat = (artifact / "manifest.json").stat()
    return stat.st_ino, stat.st_mtime_ns


def _processes_of(recipe: Path) -> list[str]:
    """Command lines of live processes that work in the recipe's store."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(recipe.parent) in word for word in words):
            found.append(" ".join(words))
    return found


def _command(*words: object) -> list[str]:
    store = Path(str(words[1])).parent / "store"
    return [sys.executable, "-m", "pipeline", *map(str, words), "--store", str(store)]


def _pipeline(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*words), cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600)


def _wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
