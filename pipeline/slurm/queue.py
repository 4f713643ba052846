"""What Slurm knows of jobs: those that wait and run, for some minutes (MinJobAge) those that ended, and, where
accounting is on, those that ended long ago.
"""

import os
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from pipeline.errors import PipelineError

PATIENCE_SECONDS = 20.0
"""How long slurmctld may take to answer."""

_FIELDS = (
    "ArrayJobID", "ArrayTaskID", "State", "Reason", "NodeList", "SubmitTime", "EligibleTime", "StartTime", "EndTime",
    "RestartCnt", "PreemptTime", "exit_code",
)  # fmt: skip
_ACCOUNTED = ("JobID", "State", "NodeList", "Submit", "Eligible", "Start", "End", "ExitCode")
_SEPARATOR = "|"
"""In none of these fields."""
ENDED = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
)
"""States in which nothing more happens: https://slurm.schedmd.com/squeue.html, job state codes."""


class Silent(PipelineError):
    """Slurm cannot be asked from here, or did not answer."""


@dataclass(frozen=True)
class Entry:
    """One job, or one task of an array; times are in seconds since the epoch."""

    job_id: int
    """Of the array, for one of its tasks."""
    task: int
    """0 for what is no array."""
    state: str
    """Slurm's word, such as PENDING: https://slurm.schedmd.com/squeue.html, job state codes."""
    reason: str
    """Slurm's word for why it waits or what ended it, such as Priority; "None" if there is none."""
    nodes: str
    submitted: float | None
    eligible: float | None
    started: float | None
    """Of one that waits: when Slurm expects to start it."""
    ends: float | None
    """At the latest, of one that runs; when it did, of one that ended."""
    restarts: int
    is_preempted: bool
    exit_code: int


def ask(job_ids: Collection[int]) -> list[Entry]:
    """What Slurm knows of these jobs; those that it has forgotten are left out. Raises Silent."""
    if not job_ids:
        return []
    fields = ",".join(f"{field}:{_SEPARATOR}" for field in _FIELDS)
    answer = _run(["squeue", "--noheader", "--array", "--states=all", f"--jobs={_list(job_ids)}", f"--Format={fields}"])
    return [entry for line in answer.splitlines() if (entry := parse(line))]


def ask_accounting(job_ids: Collection[int]) -> list[Entry]:
    """The same of those that squeue has forgotten; nothing where accounting is off, as it often is."""
    if not job_ids:
        return []
    words = ["sacct", "--noheader", "--allocations", "--array", "--parsable2", f"--format={','.join(_ACCOUNTED)}"]
    try:
        answer = _run([*words, f"--jobs={_list(job_ids)}"])
    except Silent:
        return []
    return [entry for line in answer.splitlines() if (entry := parse_accounting(line))]


def cancel(job: str) -> None:
    """Take `12` or `12_3` out of the queue. Raises Silent."""
    _run(["scancel", job])


def terminate(job: str) -> None:
    """Send SIGTERM to its script alone, which hands it on: no KillWait runs. Raises Silent."""
    _run(["scancel", "--batch", "--signal=TERM", job])


def _list(job_ids: Collection[int]) -> str:
    return ",".join(map(str, sorted(job_ids)))


def _run(words: list[str]) -> str:
    """What a command of Slurm's says. Raises Silent with one line."""
    if not shutil.which(words[0]):
        raise Silent(f"Slurm: found no {words[0]} on this machine, so only what the store knows is shown")
    environment = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        raise Silent(f"Slurm: {words[0]} got no answer within {PATIENCE_SECONDS:.0f} s; try again later") from None
    if done.returncode and "Invalid job id" not in done.stderr:  # it has forgotten the only one that was asked for
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Silent(f"Slurm: {words[0]} got no answer: {said[-1]}")
    return done.stdout


def parse(line: str) -> Entry | None:
    """A line of squeue. None for a line of another form, which a plug-in of the site may have printed."""
    values = dict(zip(_FIELDS, map(str.strip, line.split(_SEPARATOR)), strict=False))
    if len(values) < len(_FIELDS) or not values["ArrayJobID"].isdigit():
        return None
    return Entry(
        job_id=int(values["ArrayJobID"]),
        task=int(values["ArrayTaskID"]) if values["ArrayTaskID"].isdigit() else 0,
        state=values["State"],
        reason=values["Reason"],
        nodes=values["NodeList"],
        submitted=_time(values["SubmitTime"]),
        eligible=_time(values["EligibleTime"]),
        started=_time(values["StartTime"]),
        ends=_time(values["EndTime"]),
        restarts=int(values["RestartCnt"] or 0),
        is_preempted=_time(values["PreemptTime"]) is not None,
        exit_code=_exit_code(values["exit_code"]),
    )


def parse_accounting(line: str) -> Entry | None:
    """A line of sacct, such as `12_3|CANCELLED by 1000|n1|...|0:9`."""
    values = dict(zip(_ACCOUNTED, map(str.strip, line.split(_SEPARATOR)), strict=False))
    job_id, _, task = values.get("JobID", "").partition("_")
    if len(values) < len(_ACCOUNTED) or not job_id.isdigit() or not (task or "0").isdigit():
        return None
    code, _, number = values["ExitCode"].partition(":")
    return Entry(
        job_id=int(job_id),
        task=int(task or 0),
        state=values["State"].split()[0],
        reason="None",
        nodes=values["NodeList"],
        submitted=_time(values["Submit"]),
        eligible=_time(values["Eligible"]),
        started=_time(values["Start"]),
        ends=_time(values["End"]),
        restarts=0,
        is_preempted=False,
        exit_code=128 + int(number) if number.isdigit() and int(number) else int(code or 0),
    )


def _time(text: str) -> float | None:
    """Slurm writes the local time; what is not known is `N/A`, `None` or `Unknown`."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _exit_code(text: str) -> int:
    """As a shell says it: of a status as wait(2) has it, 128 and the signal for one that was killed."""
    status = int(text) if text.isdigit() else 0
    return 128 + (status & 0x7F) if status & 0x7F else status >> 8
