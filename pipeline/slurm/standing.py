"""How a submitted task stands, in one line.

It comes from the task's own events, from Slurm as long as it remembers the job, and from what Slurm wrote into the
job's log; the store alone is enough where Slurm cannot be asked.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.display import duration
from pipeline.process import in_words
from pipeline.slurm import pending, queue
from pipeline.slurm.queue import ENDED, Entry
from pipeline.slurm.submission import Event
from pipeline.slurm.tasks import Task, events, is_done, log_file
from pipeline.slurm.words import CANCELLED, MEMORY, TIME_LIMIT, last_words
from pipeline.store import Store
from pipeline.tail import last_lines

LOG_NOT_WRITTEN = 128 + 53
"""What Slurm reports of a job whose output it could not open on its node."""


@dataclass(frozen=True)
class Standing:
    """How a task stands."""

    word: str
    """queued, running, ending, done, failed, cancelled, dropped (what it waits for failed), lost (nobody knows why it
    ended), or submitted where Slurm cannot be asked.
    """
    text: str
    """In one line: where, since when, or why."""
    is_over: bool
    """Whether nothing more happens by itself."""


class Watcher:
    """Asks Slurm once about the tasks in question, and tells how each stands."""

    def __init__(self, store: Store, tasks: Iterable[Task]) -> None:
        self._store = store
        self._entries: dict[tuple[int, int], Entry] = {}
        self.silence = ""
        """Why Slurm could not be asked."""
        job_ids = {job.job_id for task in tasks for job in task.submission.jobs if job.job_id}
        try:
            found = queue.ask(job_ids)
            forgotten = job_ids - {entry.job_id for entry in found}
            found += queue.ask_accounting(forgotten)
        except queue.Silent as silent:
            self.silence, found = str(silent), []
        self._entries = {(entry.job_id, entry.task): entry for entry in found}

    def entry(self, task: Task) -> Entry | None:
        """What Slurm knows of it."""
        return self._entries.get(task.key)

    def is_alive(self, task: Task) -> bool:
        """Whether Slurm has it in its queue."""
        entry = self.entry(task)
        return entry is not None and entry.state not in ENDED

    def standing(self, task: Task) -> Standing:
        """How it stands."""
        entry, said = self.entry(task), events(self._store, task)
        if task.job.job_id is None:
            return Standing("lost", "was not submitted: `submit` was interrupted", is_over=True)
        if entry and entry.state not in ENDED:
            return self._alive(task, entry, said)
        if entry is None and self.silence and not _says_its_end(said):
            where = f"started on {said[-1].node}, {_ago(said[-1].at)} ago," if said else "has not started yet"
            return Standing("submitted", f"{task.label}, {where} as far as the store knows", is_over=False)
        return self._over(task, entry, said)

    def _alive(self, task: Task, entry: Entry, said: list[Event]) -> Standing:
        if entry.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"):
            again = (
                f"; its {_ordinal(entry.restarts + 1)} start, since {self._why_again(task, said[-1])}" if said else ""
            )
            return Standing("queued", f"{task.label}: {self._why_it_waits(task, entry)}{again}", is_over=False)
        if entry.state == "COMPLETING":
            return Standing("ending", f"{task.label} on {entry.nodes}", is_over=False)
        word = {"RUNNING": "running", "CONFIGURING": "starting"}.get(entry.state, entry.state.lower())
        since = f" for {duration(max(0.0, time.time() - entry.started))}" if entry.started else ""
        return Standing(word, f"{task.label} on {entry.nodes}{since}", is_over=False)

    def _why_it_waits(self, task: Task, entry: Entry) -> str:
        if entry.reason == "Dependency":
            waits_for = [each.label for each in task.needed() if not is_done(self._store, each)]
            return f"waits for {_listed(waits_for)}" if waits_for else "is about to start"
        return pending.why(entry)

    def _why_again(self, task: Task, last: Event) -> str:
        if last.what == "requeued":
            return last.reason
        return last_words(log_file(self._store, task)) or "its node failed or it was preempted"

    def _over(self, task: Task, entry: Entry | None, said: list[Event]) -> Standing:
        last = said[-1] if said else None
        if last and last.what == "finished":
            return Standing("done", f"{task.label} on {last.node}", is_over=True)
        if last and last.what in ("failed", "gave up"):
            return Standing("failed", f"{task.label} on {last.node}: {last.reason}", is_over=True)
        if not last and (culprit := self._culprit(task)):
            names = ", ".join(piece.name for piece in culprit.pieces)
            how = "was cancelled" if self.standing(culprit).word == "cancelled" else "failed"
            return Standing(
                "dropped", f"{task.label} never started, since {culprit.label} ({names}) {how}", is_over=True
            )
        word, text = self._end(task, entry, last)
        return Standing(word, f"{task.label}{f' on {last.node}' if last else ''}: {text}", is_over=True)

    def _end(self, task: Task, entry: Entry | None, last: Event | None) -> tuple[str, str]:
        """What ended it, which it did not say itself."""
        state = entry.state if entry else ""
        saved = _kept(last)
        words = last_words(log_file(self._store, task))
        if state == "OUT_OF_MEMORY" or words == MEMORY:
            return "failed", f"was killed: {MEMORY}{saved}"
        if last and last.what == "stopped" and state in ("", "FAILED", "CANCELLED", "COMPLETED"):
            return "cancelled", f"{last.reason}{saved}"
        if state == "CANCELLED" or (not state and words == CANCELLED):
            return "cancelled", f"was cancelled{saved}" if last else "was cancelled before it started"
        if state == "TIMEOUT" or words == TIME_LIMIT:
            hint = f" ({task.job.signal_seconds} s were not enough to save: more signal_seconds, or more time)"
            too_short = last is not None and last.what == "started"
            return "failed", f"reached its time limit and was killed{hint if too_short else saved}"
        if state in ("NODE_FAIL", "BOOT_FAIL"):
            return "failed", f"node {entry.nodes if entry else '?'} failed, and Slurm did not requeue it{saved}"
        if entry and entry.exit_code == LOG_NOT_WRITTEN:
            return "failed", f"could not write its log on {entry.nodes}: is {self._store.root} there, and writable?"
        if last and last.what == "requeued":
            return (
                "failed",
                f"was to be requeued, which did not happen; its log says why{saved}",
            )
        if entry:
            said = last_lines(log_file(self._store, task), 1)
            how = f"ended without a word of its own ({in_words(entry.exit_code)}){saved}"
            return "failed", how + (f"; the last of its log: {said[0]}" if said else "; its log is empty")
        if last is None:
            return "lost", "is forgotten by Slurm and never started: it was cancelled, or its nodes failed"
        killed = words or "was killed, by a node that failed or for its memory, and Slurm has forgotten it"
        return "lost", killed + saved

    def _culprit(self, task: Task) -> Task | None:
        """The first of those that it waited for that did not succeed, looked for to its origin."""
        for needed in task.needed():
            is_unknown = self.silence and not events(self._store, needed)
            if not is_done(self._store, needed) and not self.is_alive(needed) and not is_unknown:
                return (None if events(self._store, needed) else self._culprit(needed)) or needed
        return None


def _kept(last: Event | None) -> str:
    if last is None:
        return ""
    return "; what it had not saved is lost" if last.what == "started" else "; what it saved is kept"


def _says_its_end(said: list[Event]) -> bool:
    return bool(said) and said[-1].what in ("finished", "failed", "gave up", "stopped")


def _ago(at: str) -> str:
    return duration(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()))


def _ordinal(number: int) -> str:
    return f"{number}{'th' if 10 < number % 100 < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
