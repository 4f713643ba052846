"""Running, rerunning, failing, stopping and killing, with real processes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from pipeline.lock import Lock
from pipeline.store import Store
from tests.pipeline.conftest import ROOT

TOY = """
name: toy
tracks:
  a: {value: 1}
  b: {value: 2, ask: true}
  c: {value: 3}
"""


def manifest(store: Path, stage: str) -> dict:
    return json.loads(next((store / stage).glob("*/manifest.json")).read_text())


def test_a_run_seals_every_step_and_shows_the_result(recipe, pipeline, tmp_path):
    path = recipe(TOY)
    first = pipeline("run", path)
    assert first.returncode == 0, first.stderr
    assert "total 6.0" in first.stdout and "report.html" in first.stdout
    second = pipeline("run", path)
    assert "nothing to do: all 6 steps of toy are cached" in second.stdout and "total 6.0" in second.stdout
    assert pipeline("verify", path).returncode == 0
    assert manifest(tmp_path / "store", "add")["files"].keys() == {"summary.md", "report.html"}


def test_equal_work_is_done_once(recipe, pipeline, tmp_path):
    path = recipe("name: toy\ntracks: {a: {value: 5}, b: {value: 5}}\n")
    assert "b/number" in pipeline("plan", path).stdout
    assert "total 10.0" in pipeline("run", path).stdout
    assert len(list((tmp_path / "store" / "number").glob("*/manifest.json"))) == 1


def test_one_server_serves_all_the_steps_of_its_model(recipe, pipeline, tmp_path):
    path = recipe("name: toy\ntracks: {a: {value: 1, ask: true}, b: {value: 2, ask: true}}\n")
    output = pipeline("run", path)
    assert output.stdout.count("done  server") == 2, output.stdout + output.stderr
    answers = [json.loads(file.read_text())["metrics"] for file in (tmp_path / "store" / "ask").glob("*/manifest.json")]
    assert len(answers) == 4
    assert len({answer["pid"] for answer in answers}) == len({answer["model"] for answer in answers}) == 2
    assert not any(_alive(answer["pid"]) for answer in answers)


def test_why_and_plan_name_the_field_that_changed(recipe, pipeline):
    path = recipe(TOY)
    pipeline("run", path)
    assert "stale    config.scale: 1.0 -> 2.0" in pipeline("plan", path, "--set", "scale=2").stdout
    assert "config.scale: 1.0 -> 2.0" in pipeline("why", path, "sum", "--set", "scale=2").stdout
    assert "input numbers a: number/" in pipeline("why", path, "sum", "--set", "tracks.a.value=9").stdout
    assert "is cached" in pipeline("why", path, "sum").stdout


def test_a_failure_shows_the_log_and_the_command_that_resumes(recipe, pipeline):
    failed = pipeline("run", recipe(TOY), "--set", "fail=true")
    assert failed.returncode == 1
    assert "the sum was asked to fail" in failed.stderr and ".log" in failed.stderr
    assert "continue with: python -m pipeline run" in failed.stderr and "--set fail=true" in failed.stderr


def test_preflight_reports_all_problems_before_any_work(recipe, pipeline, tmp_path):
    refused = pipeline("run", recipe("name: toy\ntracks: {a: {value: 13}, b: {value: 1}}\n"))
    assert refused.returncode == 2
    assert refused.stderr == "a/number: value: found 13, expected a lucky number\n"
    assert not list(tmp_path.glob("store/*/*/manifest.json"))


def test_options_choose_the_steps(recipe, pipeline):
    path = recipe(TOY)
    assert "would do 1 of 1 steps: a/number" in pipeline("run", path, "--until", "a/number", "--dry-run").stdout
    alone = pipeline("run", path, "--only", "sum")
    assert alone.returncode == 2
    assert alone.stderr.splitlines() == [
        f"step {name}/number: is not done yet and sum reads it; run it first, or too: --only {name}/number"
        for name in "abc"
    ]
    assert pipeline("run", path, "--until", "sum").returncode == 0
    forced = pipeline("run", path, "--only", "sum", "--force", "sum")
    assert "done  sum" in forced.stdout
    unknown = pipeline("run", path, "--only", "sun")
    assert unknown.returncode == 2 and "its steps: a/number" in unknown.stderr


def test_several_steps_alone_may_read_each_other(recipe, pipeline):
    path = recipe(TOY)
    assert pipeline("run", path, "--only", "b/number", "--only", "a/number").returncode == 0
    listed = pipeline("plan", path).stdout
    assert "toy: 6 steps: 2 cached, 4 missing" in listed
    both = pipeline("run", path, "--only", "sum", "--only", "c/number", "--only", "a/number")
    assert both.returncode == 0, both.stderr
    assert "6 steps: 4 cached" in pipeline("plan", path).stdout


def test_ctrl_c_stops_the_children_and_leaves_everything_resumable(recipe, pipeline, command, tmp_path):
    path = recipe("name: toy\ntracks: {a: {value: 1}, slow: {value: 2, pause_seconds: 3.0}}\n")
    process = subprocess.Popen(command("run", path), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    _wait_for(lambda: list(tmp_path.glob("store/number/*.partial/.progress.json")))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "continue with: python -m pipeline run" in errors
    assert "partial" in pipeline("plan", path).stdout
    resumed = pipeline("run", path)
    assert resumed.returncode == 0 and "a/number" not in resumed.stdout
    assert "attempt\nattempt\n" in "".join(file.read_text() for file in tmp_path.glob("store/number/*/attempts.txt"))


def test_kill_9_leaves_no_process_and_a_rerun_finishes(recipe, pipeline, command, tmp_path):
    path = recipe("name: toy\ntracks: {a: {value: 1}, slow: {value: 2, pause_seconds: 20.0}}\n")
    process = subprocess.Popen(command("run", path), cwd=ROOT, start_new_session=True)
    _wait_for(lambda: list(tmp_path.glob("store/number/*.partial/.progress.json")))
    locks = (Lock(path.with_suffix("")) for path in tmp_path.glob("store/locks/number-*"))
    holder = next(holder for lock in locks if (holder := lock.holder()))
    assert _alive(holder["pid"])
    process.kill()
    process.wait()
    _wait_for(lambda: not _alive(holder["pid"]))
    finished = pipeline("run", path, "--set", "tracks.slow.pause_seconds=0.0")
    assert finished.returncode == 0, finished.stderr


def test_two_runs_of_one_recipe_share_the_work(recipe, command, tmp_path):
    path = recipe("name: toy\ntracks: {a: {value: 1, pause_seconds: 1.0}, b: {value: 2, pause_seconds: 1.0}}\n")
    runs = [subprocess.Popen(command("run", path), cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [run.wait(timeout=60) for run in runs] == [0, 0, 0]
    assert all(file.read_text() == "attempt\n" for file in tmp_path.glob("store/number/*/attempts.txt"))


def test_damage_is_named_and_only_that_is_recomputed(recipe, pipeline, tmp_path):
    path = recipe(TOY)
    pipeline("run", path)
    victim = next((tmp_path / "store" / "add").glob("*/summary.md"))
    victim.write_text("total 7.0\n")
    verified = pipeline("verify", path)
    assert verified.returncode == 1
    assert f"{victim}: content differs from its recorded sha256" in verified.stdout
    number = next((tmp_path / "store" / "number").glob("*/number.txt"))
    number.write_text("1234567")
    refused = pipeline("run", path, "--set", "scale=3")
    assert refused.returncode == 1 and f"{number}: 7 bytes, expected 1" in refused.stderr


def test_gc_deletes_only_what_no_recipe_reaches_and_only_when_told(recipe, pipeline, tmp_path):
    path = recipe(TOY)
    pipeline("run", path, "--set", "scale=2")
    pipeline("run", path)
    assert "1 folders" in pipeline("gc").stdout
    assert len(list(tmp_path.glob("store/add/*/manifest.json"))) == 2
    assert "deleted" in pipeline("gc", "--delete").stdout
    assert len(list(tmp_path.glob("store/add/*/manifest.json"))) == 1
    assert "nothing to do" in pipeline("run", path).stdout


def test_gc_deletes_the_answers_of_models_that_no_recipe_reaches(recipe, pipeline, tmp_path):
    path = recipe("name: toy\ntracks: {a: {value: 1, ask: true}}\n")
    pipeline("run", path, "--set", "tracks.a.value=2")
    pipeline("run", path)
    answers = tmp_path / "store" / "answers"
    (kept,) = {json.loads(file.read_text())["inputs"]["model"].partition("/")[2] for file in _manifests(tmp_path, "1")}
    (old,) = {folder.name for folder in answers.iterdir()} - {kept}
    listed = pipeline("gc").stdout
    size = sum(file.stat().st_size for file in (answers / old).iterdir())
    assert f"{size:>14,} bytes  {answers / old}\n" in listed
    assert str(answers / kept) not in listed
    assert pipeline("gc", "--delete").returncode == 0
    assert [folder.name for folder in answers.iterdir()] == [kept]
    assert pipeline("verify", path).returncode == 0


def test_gc_leaves_answers_that_are_being_written(tmp_path, pipeline):
    store = Store(tmp_path / "store")
    folder = store.root / "answers" / ("a" * 64)
    folder.mkdir(parents=True)
    (folder / f"{'b' * 16}.jsonl").write_text("{}\n")
    with store.lock("ask", "b" * 64):
        assert "0 folders" in pipeline("gc", "--delete").stdout
    assert "1 folders" in pipeline("gc", "--delete").stdout
    assert not folder.exists()


def test_show_and_status_tell_what_is_known(recipe, pipeline):
    path = recipe(TOY)
    assert "sum       missing" in pipeline("status", path).stdout
    pipeline("run", path)
    assert "sum       cached" in pipeline("status", path).stdout
    shown = pipeline("show", path, "sum").stdout
    assert '"total": 6.0' in shown and "summary.md" in shown
    number = pipeline("show", path, "a/number").stdout
    assert "\nnumber.txt\n\n" in number  # small texts are shown as they are


def _manifests(folder: Path, value: str) -> list[Path]:
    """The `ask` manifests of the model that is this number."""
    number = next(file for file in folder.glob("store/number/*/number.txt") if file.read_text() == value)
    return [
        file for file in folder.glob("store/ask/*/manifest.json") if f"number/{number.parent.name}" in file.read_text()
    ]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def _wait_for(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
