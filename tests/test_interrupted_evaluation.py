"""kill -9 of a real server, and of the evaluation itself: what is asked again is only what is missing, counted."""

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline import plan as plans
from pipeline.store import Store
from tests.stages.conftest import NUMBERS, write_tiny_model

ROOT = Path(__file__).parents[1]
NUM_QUESTIONS = 160
RECIPE = """
name: tiny
models: {tiny: {source: {kind: local, path: model}}}
serve: {dtype: float32, max_model_len: 512, max_num_seqs: 4, cpu_kv_cache_gib: 1}
benchmarks:
  first: {ask: {name: questions, file: first.jsonl, max_tokens: 100}, score: {name: questions, rule: contains}}
  second: {ask: {name: questions, file: second.jsonl, max_tokens: 100}, score: {name: questions, rule: contains}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    write_tiny_model(folder / "model", num_attention_heads=2, num_key_value_heads=1)
    words = NUMBERS.split()
    texts = [f"{a} apples + {b} pears {c} ?" for a in words for b in words for c in words[:4]]
    for name, own in (("first", texts[:NUM_QUESTIONS]), ("second", texts[NUM_QUESTIONS : 2 * NUM_QUESTIONS])):
        rows = [{"question": text, "answer": "three"} for text in own]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder / "tiny.yaml"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_was_killed_goes_on_with_the_rest(recipe: Path):
    """First the server, which the run starts once more; then the run, which goes on when it is started again."""
    store = recipe.parent / "store"
    with _running(recipe) as run:
        _wait_for(lambda: _num_answers(store) > 40, run)
        server = _server_of(store)
        known = _num_answers(store)
        server.kill()
        _wait_for(lambda: _num_answers(store) > known + 40, run)
        server = _server_of(store)
        run.kill()
        run.wait()
    _wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    known = _num_answers(store)
    assert known < 2 * NUM_QUESTIONS, "the run was killed too late to show anything"
    with _running(recipe) as run:
        output, _ = run.communicate(timeout=600)
    assert run.returncode == 0, output
    assert max(_asked(store).values()) == 1
    assert len(_asked(store)) == 2 * NUM_QUESTIONS
    assert _num_asked_at_last(recipe, store) == 2 * NUM_QUESTIONS - known


def _running(recipe: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "pipeline", "run", str(recipe), "--store", str(recipe.parent / "store")]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _wait_for(condition: Callable[[], bool], run: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        assert run is None or run.poll() is None, run.communicate()[0]
        time.sleep(0.05)


def _server_of(store: Path) -> psutil.Process:
    """The vLLM server that serves a model of this store; on a busy machine one list of processes may lack it."""
    for _ in range(50):
        if found := next(_servers_of(store), None):
            return found
        time.sleep(0.1)
    raise AssertionError("no server")


def _servers_of(store: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        is_server = words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
        if is_server and any(word.startswith(str(store)) for word in words):
            yield process


def _rows(store: Path) -> list[str]:
    """Complete lines of the stored answers."""
    files = (store / "answers").glob("*/*.jsonl")
    return [line for file in files for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _num_answers(store: Path) -> int:
    return len(_rows(store))


def _asked(store: Path) -> Counter[str]:
    """How often each thing was asked for and answered."""
    return Counter(json.loads(line.partition(" ")[2])["key"] for line in _rows(store))


def _num_asked_at_last(recipe: Path, store: Path) -> int:
    """By the processes that finished the two steps."""
    found = plans.load(recipe, [])
    made = [found.find(f"tiny/{name}/generate") for name in ("first", "second")]
    return sum(Store(store).artifact(step.stage, step.fingerprint).metrics()["num_asked"] for step in made)
