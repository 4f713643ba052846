"""Scripts are what they were, shellcheck agrees with them, and bash does what they promise.

After a change that is meant: python -m tests.slurm.test_script writes the golden files anew.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import plan as plans
from pipeline.errors import UserError
from pipeline.slurm import refusals, script, submission, submitting
from pipeline.slurm.profile import Profile
from pipeline.slurm.script import Batch
from pipeline.store import Store

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
QUICKSTART = ROOT / "recipes" / "quickstart.yaml"
SWEEP = GOLDEN / "sweep.yaml"
ODD = """it's "odd": $HOME `id` %j \\n #x & é"""


@pytest.fixture(autouse=True)
def toy_stages(monkeypatch):
    monkeypatch.setenv("PIPELINE_STAGES", "tests.pipeline.toy")


def dry_run(profile: Path, recipe: Path, *options: str) -> str:
    """What the command prints where there is no Slurm; the same wherever the project lies."""
    words = ["submit", str(recipe), "--cluster", str(profile), "--store", "/shared/store", "--dry-run", *options]
    stages = "tests.pipeline.toy" if recipe == SWEEP else "stages"
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        cwd=ROOT,
        env={**os.environ, "PIPELINE_STAGES": stages, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(str(ROOT), "/project")


def golden() -> Iterator[tuple[Path, str]]:
    """Files, and what should be in them: the example profiles, and a sweep."""
    for cluster in sorted((ROOT / "slurm" / "clusters").glob("*.yaml")):
        yield GOLDEN / f"{cluster.stem}.txt", dry_run(cluster, QUICKSTART, "--until", "math/train")
    yield GOLDEN / "sweep.txt", dry_run(GOLDEN / "sweep_cluster.yaml", SWEEP)


def scripts(text: str) -> list[str]:
    return [part.partition("\n")[2] for part in text.split("##### ")[1:]]


def shellcheck(text: str) -> str:
    return subprocess.run(["shellcheck", "-"], input=text, capture_output=True, text=True).stdout


def test_dry_runs_are_what_they_were():
    found = dict(golden())
    assert len(found) >= 4
    for file, text in found.items():
        assert text == file.read_text(), file
        for each in scripts(text):
            assert shellcheck(each) == ""


def batch(tmp_path: Path, profile: dict[str, Any], recipe: str = "name: toy\ntracks: {a: {value: 1}}\n") -> Batch:
    file = tmp_path / "toy.yaml"
    file.write_text(recipe)
    plan = plans.load(file, [])
    store = Store(tmp_path / "store")
    order = refusals.Order(
        plan, plan.steps, file, [], tmp_path / "my cluster.yaml", Profile.model_validate(profile), store
    )
    made = submitting.prepare(order, "first")
    submission.folder(store, "first").mkdir(parents=True)
    return made


def written(made: Batch) -> Path:
    """The script of its first job."""
    file = script.script_file(made, made.submission.jobs[0])
    file.write_text(script.render(made, made.submission.jobs[0]))
    return file


def program(tmp_path: Path, body: str, name: str = "python") -> str:
    """Something that stands for Python, in bash; it is asked first whether it has the packages."""
    folder = tmp_path / ODD.replace("/", "")
    folder.mkdir(exist_ok=True)
    asked = '[[ " $* " != *" -c "* ]] || exit 0'
    (folder / name).write_text(f"#!/usr/bin/env bash\n{asked}\n{body}\n")
    (folder / name).chmod(0o755)
    return str(folder / name)


def start(file: Path, tmp_path: Path, **environment: str) -> "subprocess.Popen[str]":
    """As slurmd does, with an scontrol that writes down what it is asked, and a squeue that says $STATE."""
    tools = tmp_path / "tools"
    tools.mkdir(exist_ok=True)
    for name, line in (("scontrol", f'echo "$@" >>"{tmp_path}/scontrol.log"'), ("squeue", 'echo "${STATE:-RUNNING}"')):
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    variables = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n1", **environment}
    return subprocess.Popen(
        ["bash", str(file)], env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(file: Path, tmp_path: Path, **environment: str) -> tuple[int, str]:
    process = start(file, tmp_path, **environment)
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


def requeued(tmp_path: Path) -> list[str]:
    log = tmp_path / "scontrol.log"
    return log.read_text().splitlines() if log.exists() else []


def test_odd_names_reach_the_program_as_they_are(tmp_path):
    folder = tmp_path / "b'c\"d $e%f#g"
    folder.mkdir()
    python = program(folder, """printf '<%s>\\n' "$@" "$ODD" "$PWD" """)
    options = {"command": [python, ODD], "environment": {"ODD": ODD}}
    made = batch(folder, {"default": options}, 'name: it\'s\ntracks: {"x\\ny": {value: 1}}\n')
    code, output = run(written(made), tmp_path)
    assert code == 0
    store = folder / "store"
    words = [ODD, "-m", "pipeline.slurm.batch", store, "first", made.submission.jobs[0].name, 0, ODD, ROOT]
    assert output.splitlines() == [f"<{word}>" for word in words]
    assert shellcheck(written(made).read_text()) == ""


def test_set_up_lines_and_variables_come_before_the_program(tmp_path):
    python = program(tmp_path, 'echo "$A $B"')
    sourced = tmp_path / "activate"
    sourced.write_text("false\nexport B=$A$A\n")
    options = {"command": [python], "environment": {"A": "1"}, "setup": ["true # all is well", f"source '{sourced}'"]}
    assert run(written(batch(tmp_path, {"default": options})), tmp_path) == (0, "1 11\n")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"command": ["/nowhere/python"]}, "/nowhere/python does not start a Python with the pipeline's packages"),
        ({"command": ["false"]}, "command: false does not start"),
        ({"command": ["true"], "setup": ["cd /", "nonsense --load cuda"]}, "setup: a line of it failed"),
    ],
)
def test_what_is_missing_on_a_node_is_one_line_in_the_log_and_in_status(tmp_path, options, line):
    made = batch(tmp_path, {"default": options})
    code, output = run(written(made), tmp_path, SLURM_RESTART_COUNT="2")
    assert code == 2
    assert line in output.splitlines()[-1]
    job = made.submission.jobs[0].name
    (event,) = submission.events(made.store, "first", job, 0)
    assert (event.what, event.node, event.restart, event.exit_code) == ("failed", "n1", 2, 2)
    assert event.reason == output.splitlines()[-1]
    assert requeued(tmp_path) == []


LISTENS = """
left=3
trap 'echo got USR2; left=$((left - 1))' USR2
trap 'echo got TERM; exit 143' TERM
echo ready
while [ $left -gt 0 ]; do sleep 0.02; done
exit %d
"""


@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_every_signal_is_handed_on_and_the_exit_code_is_the_programs_own(tmp_path, code):
    made = batch(tmp_path, {"default": {"command": [program(tmp_path, LISTENS % code)]}})
    process = start(written(made), tmp_path)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    for _ in range(3):
        process.send_signal(signal.SIGUSR2)
        assert process.stdout.readline() == "got USR2\n"
    assert process.wait(30) == code
    assert requeued(tmp_path) == (["requeue 7"] if code == 75 else [])


def test_a_cancelled_job_is_not_requeued(tmp_path):
    made = batch(tmp_path, {"default": {"command": [program(tmp_path, LISTENS % 75)]}})
    process = start(written(made), tmp_path)
    assert process.stdout
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert requeued(tmp_path) == []


def test_of_an_array_one_task_alone_is_requeued(tmp_path):
    recipe = "name: toy\ntracks: {a: {value: 1}, b: {value: 2}}\n"
    made = batch(tmp_path, {"default": {"command": [program(tmp_path, 'echo "$6"; exit 75')]}}, recipe)
    variables = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "1"}
    assert run(written(made), tmp_path, **variables) == (75, "1\n")
    assert requeued(tmp_path) == ["requeue 5_1"]


def test_what_slurm_ends_is_not_requeued(tmp_path):
    """A job that is cancelled while it saves because of SIGUSR2."""
    made = batch(tmp_path, {"default": {"command": [program(tmp_path, '[ "$1" = -c ] || exit 75')]}})
    assert run(written(made), tmp_path, STATE="COMPLETING") == (75, "")
    assert requeued(tmp_path) == []


def test_a_program_that_was_stopped_while_it_started_starts_again_but_not_for_ever(tmp_path):
    made = batch(tmp_path, {"default": {"command": [program(tmp_path, "kill -USR2 $$")]}})
    assert run(written(made), tmp_path)[0] == 75
    assert run(written(made), tmp_path, SLURM_RESTART_COUNT="10")[0] == 128 + signal.SIGUSR2
    assert requeued(tmp_path) == ["requeue 7"]


def test_a_requeue_that_slurm_refuses_is_told(tmp_path):
    made = batch(tmp_path, {"default": {"command": [program(tmp_path, "exit 75")]}})
    process = start(written(made), tmp_path)
    (tmp_path / "tools" / "scontrol").write_text("#!/bin/sh\necho Requested operation is disabled; exit 1\n")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert output.startswith("Requested operation is disabled\nSlurm does not requeue this job")
    (event,) = submission.events(made.store, "first", made.submission.jobs[0].name, 0)
    assert event.reason.endswith("everything is saved: submit again")


def test_a_signal_before_the_program_starts_is_not_forgotten(tmp_path):
    options = {"command": [program(tmp_path, "echo started")], "setup": ["echo ready", "sleep 0.5"]}
    for name, code in (("SIGUSR2", 75), ("SIGTERM", 143)):
        (tmp_path / name).mkdir()
        process = start(written(batch(tmp_path / name, {"default": options})), tmp_path)
        assert process.stdout
        process.stdout.readline()
        process.send_signal(signal.Signals[name])
        assert (process.stdout.read(), process.wait(30)) == ("", code)


@pytest.mark.parametrize("name", ["back\\slash", "line\nbreak"])
def test_a_store_that_sbatch_cannot_name_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"store .*: found a backslash or a line break"):
        batch(tmp_path / name, {})


if __name__ == "__main__":
    for each, content in golden():
        each.write_text(content)
