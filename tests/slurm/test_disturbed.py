"""Jobs that are stopped, requeued, preempted, killed or cancelled: `status` says so, and a further submit finishes."""

import json
import signal
from typing import Any

import psutil
import pytest

from tests.slurm.case import Case

pytestmark = pytest.mark.slow

PAUSE = "name: toy\ntracks:\n  one: {{value: {value}, pause_seconds: {seconds}}}\n"
ASKED = """
name: asked
tracks:
  one: {value: 1, questions: {q: {num_answers: 12, pause_seconds: 0.5}}}
  two: {value: 2, questions: {q: {num_answers: 12, pause_seconds: 0.5}}}
"""


@pytest.fixture(scope="module")
def timeouts(session_cluster, tmp_path_factory) -> tuple[Case, Case]:
    """Two with a limit of a minute, begun early, since Slurm looks at limits every 30 s only: slow work that is saved
    as it goes, and work that is not.
    """
    root = tmp_path_factory.mktemp("timeouts")
    saved = "name: saved\ntracks:\n  one: {value: 1, questions: {q: {num_answers: 40, pause_seconds: 1}}}\n"
    options: dict[str, Any] = {"time": 1, "signal_seconds": 55}
    return (
        Case(session_cluster, root, "saved").write(saved).describe(**options).submitted(),
        Case(session_cluster, root, "lost")
        .write(PAUSE.format(value=1, seconds=1000))
        .describe(top={"max_timeouts_without_progress": 2}, **options)
        .submitted(),
    )


@pytest.mark.usefixtures("timeouts")
def test_one_task_that_is_requeued_goes_on_and_leaves_the_others_alone(cluster, case):
    asked = case("asked").write(ASKED).submitted()
    ask = next(job.name for job in asked.last().jobs if job.kind == "evaluate")
    cluster.wait(lambda: has_answers(asked, 4), "four answers each")
    cluster.ask("scancel", "--batch", "--signal=USR2", asked.job(ask, 1))
    asked.wait()
    assert asked.whats(ask, 0) == ["started", "finished"], asked.all_logs()
    assert asked.whats(ask, 1) == ["started", "requeued", "started", "finished"], asked.all_logs()
    num_asked = [
        json.loads(file.read_text())["metrics"]["num_asked"] for file in asked.store.root.glob("ask/*/manifest.json")
    ]
    assert min(num_asked) < 12 == max(num_asked)
    assert asked.is_done()
    print(asked.status())


def has_answers(asked: Case, count: int) -> bool:
    files = list(asked.store.root.glob("ask/*.partial/answers.jsonl"))
    return len(files) == 2 and all(len(file.read_text().splitlines()) >= count for file in files)


@pytest.mark.usefixtures("timeouts")
def test_preempted_by_another_partition(cluster, case):
    low = case("low").write(PAUSE.format(value=1, seconds=8)).describe(cpus_per_task=3, options=["--nodelist=n2"])
    low.submitted()
    cluster.wait(lambda: low.whats("one-number") == ["started"], "it runs")
    high = case("high").write(PAUSE.format(value=2, seconds=1))
    high.describe(partition="urgent", cpus_per_task=3, options=["--nodelist=n2"]).submitted().wait()
    print(low.status())
    assert high.is_done()
    low.wait()
    events = low.events("one-number")
    assert [event.what for event in events] == ["started", "requeued", "started", "finished"], low.all_logs()
    assert "preempted" in events[1].reason and not events[1].is_timeout
    assert low.is_done()


@pytest.mark.usefixtures("timeouts")
def test_cancelled_killed_failed(cluster, case):
    """Each while it runs; what waited for it never starts."""
    names = ("cancelled", "step killed", "batch killed")
    made = {name: case(name).write(PAUSE.format(value=n, seconds=6)).submitted() for n, name in enumerate(names)}
    failing = "name: fails\ncount: true\ntracks:\n  one: {value: 1, questions: {q: {fail: true}}}\n"
    failed = case("failed").write(failing).submitted()
    for each in made.values():
        cluster.wait(lambda each=each: each.whats("one-number") == ["started"], "it runs")
        cluster.wait(lambda each=each: list(each.store.root.glob("number/*.partial/attempts.txt")), "its step runs")
    cluster.ask("scancel", made["cancelled"].job("one-number"))
    process(made["step killed"], "pipeline.child").kill()
    process(made["batch killed"], "pipeline.slurm.batch").kill()
    for each in (*made.values(), failed):
        each.wait(30)
        print(each.folder.name, each.whats("one-number"), each.states())
        print(each.status())
        print(each.all_logs())
    for each in made.values():
        assert not (each.store.root / "add").exists()
        each.submitted()
    failed.write(failing.replace("true}}", "false}}")).submitted()
    for each in (*made.values(), failed):
        assert each.wait().is_done()


def process(case: Case, word: str) -> psutil.Process:
    """The one of a case's job."""
    job = case.job("one-number")
    for each in psutil.process_iter(["cmdline"]):
        if any(word in part for part in each.info["cmdline"] or []) and "--" not in each.info["cmdline"]:
            try:
                if each.environ().get("SLURM_JOB_ID") == job:
                    return each
            except psutil.Error:
                continue
    raise AssertionError(f"no {word} of job {job}")


def test_time_limits_are_gone_on_from_unless_nothing_is_saved(timeouts):
    saved, lost = timeouts
    ask = next(job.name for job in saved.last().jobs if job.kind == "evaluate")
    lost.wait(150)
    saved.wait(100)
    print(saved.all_logs(), lost.all_logs())
    print(saved.status(), lost.status())
    assert saved.whats(ask)[-2:] == ["started", "finished"] and "requeued" in saved.whats(ask)
    assert all(event.is_timeout for event in saved.events(ask) if event.what == "requeued")
    assert lost.whats("one-number") == ["started", "requeued", "started", "gave up"]
    assert saved.is_done()


def test_a_node_that_crashes_gives_its_work_to_another(cluster, case):
    down = case("down").write(PAUSE.format(value=1, seconds=5)).submitted()
    cluster.wait(lambda: down.whats("one-number") == ["started"], "it runs")
    node = down.events("one-number")[0].node
    cluster.crash_node(node)
    try:
        down.wait(90)
    finally:
        cluster.start_node(node)
    print(down.status())
    assert down.whats("one-number") == ["started", "started", "finished"], down.all_logs()
    assert {event.node for event in down.events("one-number")} == {"n1", "n2"}
    assert down.is_done()


def test_jobs_that_slurm_has_forgotten_are_explained_from_the_store(cluster, case):
    with cluster.forgetful():
        done = case("done").write(PAUSE.format(value=1, seconds=0)).submitted()
        killed = case("killed").write(PAUSE.format(value=2, seconds=100)).submitted()
        cluster.wait(lambda: killed.whats("one-number") == ["started"], "it runs")
        process(killed, "pipeline.slurm.batch").send_signal(signal.SIGSTOP)
        cluster.ask("scancel", killed.job("one-number"))
        cluster.wait(lambda: not any(cluster.state(each.job("one-number")) for each in (done, killed)), "forgotten", 60)
        print(done.status(), killed.status())
        assert done.wait().is_done()
        killed.write(PAUSE.format(value=2, seconds=0)).submitted().wait()
        assert killed.is_done()
