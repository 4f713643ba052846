"""Which submissions of a store are over, and what the others still need: for `gc`."""

import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError
from pipeline.plan import Plan, thaw
from pipeline.slurm import submission as submissions
from pipeline.slurm.standing import Watcher
from pipeline.slurm.submission import Submission
from pipeline.slurm.tasks import Task, is_done
from pipeline.store import Store


@dataclass(frozen=True)
class Submissions:
    """All of a store."""

    alive: list[Submission]
    """Something of them is in the queue, or may be, as far as the store knows."""
    over: list[Submission]
    silence: str
    """Why Slurm could not be asked; else empty."""


def look(store: Store) -> Submissions:
    """Those that are alive, and those that are over."""
    found = list(submissions.all_of(store))
    undone = {each.id: [task for task in _tasks(each) if not is_done(store, task)] for each in found}
    watcher = Watcher(store, [task for tasks in undone.values() for task in tasks])
    alive = [each for each in found if any(not watcher.standing(task).is_over for task in undone[each.id])]
    return Submissions(alive, [each for each in found if each not in alive], watcher.silence if alive else "")


def plan_of(store: Store, submission: Submission) -> Plan:
    """What its jobs will find. Raises UserError when they will not be able to read it either."""
    file = submissions.folder(store, submission.id) / "recipes.json"
    try:
        return thaw(json.loads(file.read_text()))
    except (OSError, ValueError, LookupError) as error:
        raise UserError(
            f"{file}: cannot be read any more ({type(error).__name__}), so nobody knows what its jobs need; first "
            f"cancel them: python -m pipeline cancel {submission.recipe} --store {store.root}"
        ) from None


def work_of(submission: Submission) -> set[tuple[str, str]]:
    """Stage and short fingerprint of each of its steps."""
    pieces = (piece for job in submission.jobs for task in job.tasks for piece in task)
    return {(piece.stage, piece.fingerprint[:16]) for piece in pieces}


def folders(store: Store, over: list[Submission], kept: set[tuple[str, str]]) -> list[Path]:
    """Those of submissions of whose work nothing is kept: of the others, `status` tells times and `logs` the logs."""
    return [submissions.folder(store, each.id) for each in over if not work_of(each) & kept]


def _tasks(submission: Submission) -> list[Task]:
    return [Task(submission, job, number) for job in submission.jobs for number in range(len(job.tasks))]
