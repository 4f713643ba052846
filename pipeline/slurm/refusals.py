"""What is refused before anything is submitted. Everything here raises UserError with a line for each thing found."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import machine
from pipeline.downloads import VARIABLE
from pipeline.errors import UserError
from pipeline.lock import Lock
from pipeline.plan import Plan, unfinished_inputs, workflow
from pipeline.preflight import check, store_problems
from pipeline.slurm import queue, sbatch, submission
from pipeline.slurm.profile import Profile, seconds
from pipeline.slurm.script import Batch, script_file
from pipeline.slurm.submission import Job, Piece, Submission
from pipeline.step import Step
from pipeline.store import Store


@dataclass(frozen=True)
class Order:
    """What the user wants submitted, from which files."""

    plan: Plan
    pending: list[Step]
    recipe: Path
    overrides: list[str]
    cluster: Path
    profile: Profile
    store: Store


def preflight(order: Order) -> None:
    """Judge each kind of work as if this were a node that the profile gives it. Raises UserError.

    What only the node itself can tell is left to the job: it begins with the same preflight.
    """
    problems: list[str] = []
    for kind in dict.fromkeys(workflow().KINDS[step.stage] for step in order.pending):
        judged = [step for step in order.pending if workflow().KINDS[step.stage] == kind]
        options = order.profile.options(kind)
        fetched = {VARIABLE: str(order.profile.fetched)} if order.profile.fetched else {}
        try:
            with machine.judged(options.node(), {**options.environment, **fetched}):
                check(order.plan, order.pending, order.store, judged)
        except UserError as error:
            problems += [f"{line} ({order.cluster}: {kind})" for line in error.problems]
    if problems:
        raise UserError(*problems)


def refuse_store(root: Path) -> None:
    """In the name of a log file sbatch takes a backslash for its own: https://slurm.schedmd.com/sbatch.html."""
    if "\\" in str(root) or not str(root).isprintable():
        raise UserError(f"store {str(root)!r}: found a backslash or a line break; name another with --store DIR")


def refuse_hosts(pending: Sequence[Step]) -> None:
    """Slurm says on which machines a job runs."""
    if any(step.resources.nodes for step in pending):
        raise UserError(
            "resources.nodes: found names of machines, expected none with `submit`, since Slurm chooses them; leave it "
            "out, and say how many in the profile: kinds.train.nodes"
        )


def refuse_unfinished_inputs(order: Order) -> None:
    """What a step reads is done, or is done before it."""
    if missing := unfinished_inputs(order.pending, order.store):
        lines = (
            f"step {name}: is not done yet and {reader} needs it; submit it, too" for name, reader in missing.items()
        )
        raise UserError(*lines)


def refuse_work_in_progress(order: Order, cancel_command: str) -> None:
    """Raises UserError for steps that a job will do or does, or another run does now.

    `cancel_command` cancels what was submitted of the recipe.
    """
    wanted = {step.fingerprint for step in order.pending}
    problems, queued = [], set[str]()
    for record, job, pieces in _queued(order.store, wanted):
        queued |= {piece.fingerprint for piece in pieces}
        names = ", ".join(piece.name for piece in pieces)
        problems.append(
            f"{names}: job {job.job_id} ({job.name}) of the submission {record.id} does that already; wait for it, or "
            f"cancel it first: {cancel_command}"
        )
    for step in order.pending:
        lock = order.store.lock(step.stage, step.fingerprint)
        if step.fingerprint not in queued and lock.is_held():
            problems.append(f"{step.name}: {_holder(lock)} does that now; wait for it, or stop it first")
    if problems:
        raise UserError(*problems)


def _queued(store: Store, wanted: set[str]) -> Iterator[tuple[Submission, Job, list[Piece]]]:
    """Jobs that Slurm has in its queue, with those of the wanted pieces that their tasks there do."""
    records = [(record, job) for record in submission.all_of(store) for job in record.jobs if job.job_id is not None]
    records = [(record, job) for record, job in records if wanted & {p.fingerprint for task in job.tasks for p in task}]
    entries = queue.ask([job.job_id for _, job in records if job.job_id is not None])
    alive = {(entry.job_id, entry.task) for entry in entries if entry.state not in queue.ENDED | {"REVOKED"}}
    for record, job in records:
        tasks = (task for number, task in enumerate(job.tasks) if (job.job_id, number) in alive)
        if pieces := [piece for task in tasks for piece in task if piece.fingerprint in wanted]:
            yield record, job, pieces


def refuse_what_slurm_refuses(order: Order, batch: Batch) -> None:
    """Every job's options, of which equal ones are asked about once, and what would be accepted and never start."""
    reasons: dict[str, list[str]] = {}
    unlike = {(job.kind, len(job.tasks)): job for job in batch.submission.jobs}
    for job in unlike.values():
        try:
            sbatch.check(script_file(batch, job))
        except sbatch.Refused as refused:
            reasons.setdefault(str(refused), []).append(job.kind)
    lines = [_explained(order, reason, kinds) for reason, kinds in reasons.items()]
    if lines := lines or list(_too_long(order, batch)):
        raise UserError(*lines)


def _too_long(order: Order, batch: Batch) -> Iterator[str]:
    """Times above what the partition allows, for which a job waits for ever; a QOS may allow more."""
    limits = sbatch.partitions()
    for kind in dict.fromkeys(job.kind for job in batch.submission.jobs):
        options = order.profile.options(kind)
        names = (options.partition or "").split(",")
        found = [limits.get(name, 0) for name in names]
        if options.time is not None and options.qos is None and all(0 < each < seconds(options.time) for each in found):
            yield (
                f"{order.cluster}: {kind}: time: {options.time}: partition {options.partition or '(default)'} allows "
                f"{max(found) // 60} minutes; lower time, since training that reaches it is saved and goes on, or name "
                f"another partition"
            )


_FIELDS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "reservation": "reservation",
    "feature": "constraint",
    "time": "time",
    "array": "max_array_tasks",
    "gres": "gpus_per_node",
}
"""Words in Slurm's messages -> the profile's field that is meant."""


def _explained(order: Order, reason: str, kinds: Sequence[str]) -> str:
    options = order.profile.options(kinds[0])
    if "node configuration" in reason:
        fields = ["partition", "nodes", "cpus_per_task", "memory", "gpus_per_node", "constraint"]
    else:
        fields = [field for word, field in _FIELDS.items() if word in reason.lower()]
    if "option" in reason:
        fields = ["options"]
    values = {field: getattr(options, field, None) for field in fields}
    found = ", ".join(f"{field}: {_shown(value)}" for field, value in values.items() if value is not None)
    where = f"{order.cluster}: {', '.join(dict.fromkeys(kinds))}"
    return f"{where}: {found + ': ' if found else ''}Slurm refuses it: {reason}"


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _holder(lock: Lock) -> str:
    holder = lock.holder() or {}
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'another machine')}"


@contextmanager
def alone(store: Store) -> Iterator[None]:
    """Raises UserError while another `submit` is at work in that store, which may be about the same steps."""
    lock = Lock(store.root / "locks" / "submit.lock")
    if problems := store_problems(store.root):
        raise UserError(*problems)
    if not lock.acquire():
        raise UserError(f"store {store.root}: {_holder(lock)} submits to it now; wait until it is done")
    try:
        yield
    finally:
        lock.release()
