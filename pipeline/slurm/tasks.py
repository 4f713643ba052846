"""The tasks that were submitted for the steps of a store: which one does a step."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.slurm import submission as submissions
from pipeline.slurm.submission import Event, Job, Piece, Submission
from pipeline.store import Store


@dataclass(frozen=True)
class Task:
    """One task of one submission."""

    submission: Submission
    job: Job
    number: int

    @property
    def pieces(self) -> list[Piece]:
        return self.job.tasks[self.number]

    @property
    def key(self) -> tuple[int, int]:
        """As Slurm counts; 0 for what it never got."""
        return self.job.job_id or 0, self.number

    @property
    def label(self) -> str:
        """`job 12`, or `job 12_3` of an array; what scancel and scontrol take."""
        return f"job {self.number_for_slurm}" if self.job.job_id else f"job {self.job.name}"

    @property
    def number_for_slurm(self) -> str:
        return f"{self.job.job_id}_{self.number}" if self.job.is_array else str(self.job.job_id)

    def needed(self) -> "Iterator[Task]":
        """The tasks of the same submission that it waits for."""
        for name in self.job.after:
            job = self.submission.find(name)
            yield from (Task(self.submission, job, number) for number in range(len(job.tasks)))
        for name in self.job.after_corresponding:
            yield Task(self.submission, self.submission.find(name), self.number)
        for name, numbers in self.job.after_tasks.items():
            yield from (Task(self.submission, self.submission.find(name), number) for number in numbers)


def tasks_of(store: Store) -> dict[str, Task]:
    """Fingerprint -> the last task that was to do it."""
    return {
        piece.fingerprint: Task(submission, job, number)
        for submission in submissions.all_of(store)
        for job in submission.jobs
        for number, pieces in enumerate(job.tasks)
        for piece in pieces
    }


def events(store: Store, task: Task) -> list[Event]:
    """What it said of itself."""
    return submissions.events(store, task.submission.id, task.job.name, task.number)


def log_file(store: Store, task: Task) -> Path:
    """What its job wrote."""
    return submissions.log_file(store, task.submission.id, task.job.name, task.number)


def is_done(store: Store, task: Task) -> bool:
    """Whether all of its steps are sealed."""
    return all(store.is_sealed(piece.stage, piece.fingerprint) for piece in task.pieces)
