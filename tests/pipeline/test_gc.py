"""`gc` leaves jobs in Slurm's queue what they need, and takes away what was submitted and is of no use any more."""

import json
from pathlib import Path

import pytest

from pipeline import cli, plan
from pipeline.lock import Lock
from pipeline.slurm import submission as submissions
from tests.pipeline.test_status import ID, RECIPE, Slurm, Submitted, line, slurm

__all__ = ["slurm"]
SILENT = "echo squeue: error: no controller >&2; exit 1"


@pytest.fixture
def submitted(recipe, tmp_path, pipeline) -> Submitted:
    """A number that is done and a sum that waits; since then the recipe has changed and ran."""
    path = recipe(RECIPE)
    assert pipeline("run", path, "--only", "a/number").returncode == 0
    made = Submitted(path, tmp_path)
    frozen = plan.frozen(made.batch.plan)
    (submissions.folder(made.store, ID) / "recipes.json").write_text(json.dumps(frozen))
    path.write_text(RECIPE.replace("value: 1", "value: 5"))
    return made


def collect(submitted: Submitted, capsys, *words: str) -> list[str]:
    assert cli.main(["gc", "--store", str(submitted.store.root), *words]) == 0
    return capsys.readouterr().out.splitlines()


def number(submitted: Submitted) -> Path:
    step = submitted.batch.plan.find("a/number")
    return submitted.store.directory(step.stage, step.fingerprint)


def test_what_a_queued_job_reads_is_kept_until_it_is_over(submitted: Submitted, slurm: Slurm, capsys):
    slurm.answer(line("PENDING", job=13))
    assert collect(submitted, capsys, "--delete") == ["0 folders, 0 bytes deleted"]
    slurm.answer(line("CANCELLED", job=13))
    listed = collect(submitted, capsys)
    folder = submissions.folder(submitted.store, ID)
    assert [text.split()[-1] for text in listed[:-1]] == [str(number(submitted)), str(folder)]
    collect(submitted, capsys, "--delete")
    assert not number(submitted).exists() and not folder.exists()


def test_what_may_be_in_the_queue_is_kept_while_slurm_cannot_be_asked(submitted: Submitted, slurm: Slurm, capsys):
    slurm.answer(command=SILENT)
    told, total = collect(submitted, capsys, "--delete")
    assert told == f"Slurm: squeue got no answer: squeue: error: no controller; kept what it may still do: {ID}"
    assert total == "0 folders, 0 bytes deleted"
    submitted.happens("failed", "sum", exit_code=1, reason="no")
    assert len(collect(submitted, capsys)) == 3


def test_the_folder_of_work_that_is_kept_stays(submitted: Submitted, slurm: Slurm, capsys):
    slurm.answer()
    submitted.batch.path.write_text(RECIPE)
    assert collect(submitted, capsys, "--delete") == ["0 folders, 0 bytes deleted"]
    assert submissions.read(submitted.store, ID).id == ID


def test_a_submission_that_nobody_can_read_stops_it(submitted: Submitted, slurm: Slurm, capsys):
    slurm.answer(line("RUNNING", job=13))
    (submissions.folder(submitted.store, ID) / "recipes.json").write_text("{}")
    assert cli.main(["gc", "--delete", "--store", str(submitted.store.root)]) == 2
    assert "recipes.json: cannot be read any more (KeyError)" in capsys.readouterr().err
    assert number(submitted).exists()


def test_it_deletes_nothing_while_something_is_submitted(submitted: Submitted, slurm: Slurm, capsys):
    lock = Lock(submitted.store.root / "locks" / "submit.lock")
    assert lock.acquire()
    try:
        assert cli.main(["gc", "--delete", "--store", str(submitted.store.root)]) == 2
    finally:
        lock.release()
    assert "submits to it now; wait until it is done" in capsys.readouterr().err
