"""What a batch job runs: `python -m pipeline.slurm.batch STORE SUBMISSION_ID JOB TASK`.

It does the steps of one task, as `run` would, and records what happens to it for `status`. SIGUSR2 (the time limit is
near) and SIGTERM (cancelled or preempted) let the steps save where they are. Exit codes:

0 everything is done, 1 a step failed or the task gave up, 2 the input is wrong, 75 the script is to requeue this task
(and in no other case), 143 stopped by SIGTERM, after which Slurm requeues it or not as it sees fit.
"""

import argparse
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, Stopped, UserError
from pipeline.signals import Asked, stop_signals
from pipeline.slurm import submission as submissions
from pipeline.slurm.giving_up import num_timeouts_in_a_row, saved
from pipeline.slurm.submission import Event
from pipeline.slurm.words import CANCELLED, last_words
from pipeline.store import Store

TERMINATED = 128 + signal.SIGTERM
EARLY_SECONDS = 90
"""Slurm sends the signal up to a minute earlier than it was asked to (https://slurm.schedmd.com/sbatch.html)."""


def main(arguments: list[str]) -> int:
    """Do a task; its exit code."""
    options = _parser().parse_args(arguments)
    store = Store(options.store)
    try:
        submission = submissions.read(store, options.submission)
        task = Task(store, submission, submission.find(options.job), options.task)
    except (OSError, ValueError, LookupError) as error:
        print(f"{submissions.folder(store, options.submission)}: found no task {options.task} of {options.job} of a "
              f"submission there ({type(error).__name__}: {error}); submit again", file=sys.stderr)  # fmt: skip
        return UserError.exit_code
    try:
        return task.run()
    except OSError as error:
        print(f"store {store.root}: cannot be used on node {_node()}: {error}", file=sys.stderr)
        return UserError.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m pipeline.slurm.batch")
    parser.add_argument("store", type=Path)
    parser.add_argument("submission")
    parser.add_argument("job")
    parser.add_argument("task", type=int)
    return parser


class Task:
    """The steps of one task, and what is recorded of them."""

    def __init__(self, store: Store, submission: submissions.Submission, job: submissions.Job, number: int) -> None:
        self.store = store
        self.submission = submission
        self.job = job
        self.number = number
        self.pieces = job.tasks[number]
        self._resumed: dict[str, float] = {}
        """Fingerprint -> the part of the step that was done already when this start took it up."""

    def run(self) -> int:
        """Do what is not sealed yet; the exit code."""
        names = ", ".join(piece.name for piece in self.pieces)
        again = f", start {_restarts() + 1}" if _restarts() else ""
        print(f"{submissions.now()}  {names}  on {_node()}{again}", flush=True)
        self._record(self._event("started"))
        with stop_signals() as asked:
            try:
                self._work()
            except (KeyboardInterrupt, Stopped):
                return self._stopped(asked)
            except PipelineError as error:
                return self._failed(error.exit_code, str(error), _reason(str(error)))
            except Exception as error:  # noqa: BLE001  the log gets the traceback, `status` a line
                import traceback

                return self._failed(1, traceback.format_exc(), f"{type(error).__name__}: {error}")
        self._record(self._event("finished", exit_code=0))
        return 0

    def _work(self) -> None:
        from pipeline import history, preflight
        from pipeline.plan import thaw
        from pipeline.runner import Runner
        from pipeline.slurm.giving_up import Watch
        from pipeline.slurm.unchanged import as_submitted, check_inputs

        plan = thaw(json.loads((submissions.folder(self.store, self.submission.id) / "recipes.json").read_text()))
        steps = as_submitted(plan, self.submission, self.pieces, self._resume_command())
        pending = [step for step in steps if not self.store.is_sealed(step.stage, step.fingerprint)]
        check_inputs(pending, self.store, self._resume_command())
        preflight.check(plan, pending, self.store)
        watch = Watch(pending, self.store)
        self._resumed = watch.resumed
        record = history.update(self.store, self.submission.recipe, overrides=self.submission.overrides)
        Runner(plan, self.store, record, watch, self._resume_command()).run(steps)

    def _stopped(self, asked: Asked) -> int:
        """Requeue, give up, or leave it to Slurm."""
        words = last_words(submissions.log_file(self.store, self.submission.id, self.job.name, self.number))
        is_preempted, seconds_left = _what_slurm_says(asked.at)
        is_slurms = asked.number == signal.SIGTERM or (asked.number is None and not is_preempted)
        if is_slurms or words == CANCELLED:  # Slurm knows whether it starts this again
            return self._ended("stopped", TERMINATED, words or "it was cancelled, or told to stop by hand")
        is_timeout = not is_preempted and self._is_timeout(asked.number, seconds_left)
        progress = saved(self.store, self.pieces, self._resumed)
        if is_timeout:
            num_timeouts = num_timeouts_in_a_row([*self._events(), self._event("requeued", True, progress)])
            if num_timeouts >= self.submission.max_timeouts_without_progress:
                return self._gave_up(num_timeouts, progress)
        limit, preempted, hand = "its time limit was near", "it was preempted", "it was sent SIGUSR2 by hand"
        reason = limit if is_timeout else preempted if is_preempted else hand
        return self._ended("requeued", Stopped.exit_code, reason, is_timeout, progress)

    def _is_timeout(self, number: int | None, seconds_left: float | None) -> bool:
        """Whether the time limit is the cause of SIGUSR2. What Slurm does not tell is taken for one."""
        is_near = seconds_left is None or seconds_left <= self.job.signal_seconds + EARLY_SECONDS
        return number == signal.SIGUSR2 and is_near

    def _gave_up(self, num_timeouts: int, progress: float) -> int:
        reason = f"gave up: {num_timeouts} time limits in a row without progress; ask for more time or less work"
        return self._ended("gave up", 1, reason, True, progress)

    def _ended(
        self, what: Any, exit_code: int, reason: str, is_timeout: bool = False, progress: float | None = None
    ) -> int:
        self._record(self._event(what, is_timeout, progress, exit_code, reason))
        print(f"{submissions.now()}  {what}: {reason.removeprefix('gave up: ')}", flush=True)
        return exit_code

    def _failed(self, exit_code: int, text: str, reason: str) -> int:
        print(text, file=sys.stderr, flush=True)
        self._record(self._event("failed", exit_code=exit_code, reason=reason))
        return exit_code

    def _record(self, event: Event) -> None:
        submissions.record(self.store, self.submission.id, self.job.name, self.number, event)

    def _event(
        self,
        what: Any,
        is_timeout: bool = False,
        progress: float | None = None,
        exit_code: int | None = None,
        reason: str = "",
    ) -> Event:
        return Event(
            at=submissions.now(),
            what=what,
            node=_node(),
            restart=_restarts(),
            exit_code=exit_code,
            reason=reason,
            is_timeout=is_timeout,
            progress=progress,
        )

    def _events(self) -> list[Event]:
        return submissions.events(self.store, self.submission.id, self.job.name, self.number)

    def _resume_command(self) -> str:
        return submissions.submit_command(self.store, self.submission)


def _reason(text: str) -> str:
    """The first line of an error, and of a log in it the last one."""
    head, _, rest = text.partition("\n\n")
    if not rest:
        return "; ".join(line for line in text.splitlines() if line.strip())
    said = rest.partition("\n\n")[0].strip().splitlines()
    return head.splitlines()[0].removesuffix("; the end of its log:") + (f": {said[-1].strip()}" if said else "")


def _what_slurm_says(at: float) -> tuple[bool, float | None]:
    """(whether this job is being preempted, the seconds that it had left at that time, if that can be told)."""
    from pipeline.slurm import queue

    job_id, end = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_JOB_END_TIME")
    task = int(os.environ.get("SLURM_ARRAY_TASK_ID") or 0)
    seconds_left = float(end) - at if end and at else None
    try:
        entries = queue.ask([int(job_id)]) if job_id else []
    except queue.Silent:
        return False, seconds_left  # a container has no squeue
    for entry in (each for each in entries if each.task == task):  # the number of one is that of its array, too
        if entry.is_preempted or entry.state == "PREEMPTED":
            return True, None
        if entry.state == "RUNNING" and entry.ends:  # of another, that is when it was ended
            seconds_left = entry.ends - at
    return False, seconds_left


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


if __name__ == "__main__":
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # as in pipeline.__main__
    sys.exit(main(sys.argv[1:]))
