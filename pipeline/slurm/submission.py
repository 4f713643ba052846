"""What was handed to Slurm, as the store remembers it.

STORE/submissions/<id>/submission.json      jobs, their tasks and Slurm's numbers; written by `submit` alone
STORE/submissions/<id>/recipes.json         the recipe as it was then (`pipeline.plan.frozen`)
STORE/submissions/<id>/<job>.sh             the script
STORE/submissions/<id>/<job>-<task>.log     what the job wrote; all starts of it
STORE/submissions/<id>/<job>-<task>.jsonl   its events; one writer each, as network file systems want it
"""

import json
import os
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import UserError
from pipeline.slurm import FOLDER
from pipeline.step import Step
from pipeline.store import Store
from pipeline.strict import StrictModel
from pipeline.why import identity


class Piece(StrictModel):
    """One step of a task."""

    name: str
    stage: str
    fingerprint: str
    identity: dict[str, Any] = {}
    """What the fingerprint was made of (`pipeline.why.identity`)."""


class Job(StrictModel):
    """One call of sbatch: a job, or an array of as many tasks as `tasks` has, numbered from 0."""

    name: str
    """Unique in its submission; lower-case letters, digits, `.`, `_` and `-`."""
    kind: str
    """Of its steps, as the workflow names it: prepare, init, train, ..."""
    tasks: list[list[Piece]]
    """The steps of each task, in the order in which they run."""
    after: list[str] = []
    """Names of jobs of this submission that must have succeeded, all tasks of them."""
    after_corresponding: list[str] = []
    """Names of arrays of as many tasks: task i waits for their tasks i."""
    after_tasks: dict[str, list[int]] = {}
    """Name of an array: those of its tasks that must have succeeded."""
    signal_seconds: int = 120
    """How long before its time limit Slurm sends SIGUSR2."""
    job_id: int | None = None
    """Slurm's number; None until it was submitted."""

    @property
    def is_array(self) -> bool:
        return len(self.tasks) > 1


class Submission(StrictModel):
    """One `submit`."""

    id: str
    recipe: Path
    """The user's file, for messages."""
    overrides: list[str] = []
    cluster: Path
    """The profile it was submitted with, for messages."""
    submitted_at: str
    max_timeouts_without_progress: int = 3
    """After so many in a row a task gives up."""
    jobs: list[Job]

    def find(self, job: str) -> Job:
        """The job of that name."""
        return next(each for each in self.jobs if each.name == job)


class Event(StrictModel):
    """Something that happened to a task, said by the process that runs it."""

    at: str
    """UTC, ISO 8601."""
    what: Literal["started", "finished", "failed", "stopped", "requeued", "gave up"]
    """`stopped`: asked to, with everything saved; `requeued`: and will go on by itself."""
    node: str
    restart: int = 0
    """How often Slurm had started it before."""
    exit_code: int | None = None
    reason: str = ""
    """One line for the user."""
    is_timeout: bool = False
    """Whether the time limit, and nobody, asked it to stop."""
    progress: float | None = None
    """Of a stop: a number that grows with what is saved; None where nothing can be told."""


def piece(step: Step) -> Piece:
    """The record of a step."""
    return Piece(name=step.name, stage=step.stage, fingerprint=step.fingerprint, identity=identity(step))


def folder(store: Store, submission_id: str) -> Path:
    """Everything of one submission."""
    return store.root / FOLDER / submission_id


def log_file(store: Store, submission_id: str, job: str, task: int) -> Path:
    """What a task writes, from its first start to its last."""
    return folder(store, submission_id) / f"{job}-{task}.log"


def read(store: Store, submission_id: str) -> Submission:
    """Raises OSError or ValueError when there is none, or it is damaged."""
    return Submission.model_validate_json((folder(store, submission_id) / "submission.json").read_text())


def write(store: Store, submission: Submission) -> None:
    """Replace it atomically; on disk when this returns."""
    path = folder(store, submission.id) / "submission.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    with temporary.open("w") as file:
        file.write(submission.model_dump_json(indent=1))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def all_of(store: Store) -> Iterator[Submission]:
    """Every submission of this store, the oldest first. Raises UserError for one that cannot be read."""
    for path in sorted((store.root / FOLDER).glob("*/submission.json")):
        try:
            yield Submission.model_validate_json(path.read_text())
        except ValueError as error:
            what = str(error).splitlines()[0]
            raise UserError(f"{path}: is damaged or of another version ({what}); move its folder away") from None


def record(store: Store, submission_id: str, job: str, task: int, event: Event) -> None:
    """Append an event of a task."""
    with _events_file(store, submission_id, job, task).open("a") as file:
        file.write(event.model_dump_json() + "\n")
        file.flush()
        os.fsync(file.fileno())


def events(store: Store, submission_id: str, job: str, task: int) -> list[Event]:
    """What a task said of itself, the oldest first; a line that a crash cut off is left out."""
    path = _events_file(store, submission_id, job, task)
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [Event.model_validate_json(line) for line in lines if line.endswith("\n") and _is_whole(line)]


def submit_command(store: Store, submission: Submission) -> str:
    """The command that continues it, ready to paste."""
    words = ["python", "-m", "pipeline", "submit", str(submission.recipe), "--cluster", str(submission.cluster)]
    for override in submission.overrides:
        words += ["--set", override]
    return shlex.join([*words, "--store", str(store.root)])


def now() -> str:
    """UTC, as events and submissions write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _events_file(store: Store, submission_id: str, job: str, task: int) -> Path:
    return folder(store, submission_id) / f"{job}-{task}.jsonl"


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
