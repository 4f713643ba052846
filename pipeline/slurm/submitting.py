"""Hand a plan's jobs to Slurm: all of them or none."""

import json
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import StepFailed, Stopped, UserError
from pipeline.plan import Plan, frozen
from pipeline.slurm import refusals, sbatch, script, submission
from pipeline.slurm.jobs import arrange, slug
from pipeline.slurm.refusals import Order
from pipeline.slurm.script import Batch, script_file
from pipeline.slurm.submission import Job, Submission


def prepare(order: Order, submission_id: str) -> Batch:
    """The jobs and all that their scripts are made of. Raises UserError for work that cannot be submitted."""
    refusals.refuse_store(order.store.root)
    refusals.refuse_hosts(order.pending)
    refusals.refuse_unfinished_inputs(order)
    made = Submission(
        id=submission_id,
        recipe=order.recipe.absolute(),
        overrides=order.overrides,
        cluster=order.cluster.absolute(),
        submitted_at=submission.now(),
        max_timeouts_without_progress=order.profile.max_timeouts_without_progress,
        jobs=[
            job.model_copy(update={"signal_seconds": order.profile.options(job.kind).signal_seconds})
            for job in arrange(order.pending, sbatch.max_array_size())
        ],
    )
    return Batch(made, order.store, order.profile, order.plan.name)


def new_id(plan: Plan) -> str:
    """Sorted by time, told apart by recipe, never twice."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{slug(plan.name)}-{secrets.token_hex(2)}"


def commands(batch: Batch) -> list[tuple[Job, list[str]]]:
    """The calls of sbatch, with names of jobs where the numbers are not known yet."""
    names = {job.name: f"<{job.name}>" for job in batch.submission.jobs}
    return [(job, sbatch.command(job, script_file(batch, job), names)) for job in batch.submission.jobs]


def submit(order: Order, batch: Batch, told: Callable[[Job], None]) -> None:
    """All jobs or none. Raises UserError with Slurm's reasons, StepFailed when it changes its mind on the way."""
    folder = submission.folder(batch.store, batch.submission.id)
    try:
        _write(order, batch, folder)
        refusals.refuse_what_slurm_refuses(order, batch)
    except OSError as error:
        raise UserError(
            f"store {batch.store.root}: cannot be written ({error.strerror}); name another with --store DIR"
        ) from None
    except UserError:
        shutil.rmtree(folder)
        raise
    _submit(batch, told)


def _write(order: Order, batch: Batch, folder: Path) -> None:
    """Everything that jobs read, before the first of them can start."""
    folder.mkdir(parents=True)
    (folder / "recipes.json").write_text(json.dumps(frozen(order.plan), indent=1))
    for job in batch.submission.jobs:
        script_file(batch, job).write_text(script.render(batch, job))
    submission.write(batch.store, batch.submission)


def _submit(batch: Batch, told: Callable[[Job], None]) -> None:
    """One by one, each number on disk at once; takes all back if one is refused, or the user has enough."""
    jobs, ids = list(batch.submission.jobs), dict[str, int]()
    with _noted_stops() as stops:
        for index, job in enumerate(jobs):
            try:
                ids[job.name] = sbatch.submit(sbatch.command(job, script_file(batch, job), ids))
                jobs[index] = job.model_copy(update={"job_id": ids[job.name]})
                submission.write(batch.store, batch.submission.model_copy(update={"jobs": jobs}))
            except (sbatch.Refused, OSError) as error:
                raise StepFailed(f"job {job.name}: could not be submitted: {error}; {_take_back(ids)}") from None
            told(jobs[index])
            if stops:
                raise Stopped(f"stopped; {_take_back(ids)}")


def _take_back(ids: Mapping[str, int]) -> str:
    """What became of the jobs that were submitted before."""
    numbers = list(ids.values())
    if not numbers:
        return "none was submitted before"
    try:
        sbatch.cancel(numbers)
    except sbatch.Refused as refused:
        return f"those submitted before could not be cancelled ({refused}): scancel {' '.join(map(str, numbers))}"
    return f"cancelled those submitted before: {', '.join(map(str, numbers))}"


@contextmanager
def _noted_stops() -> Iterator[list[int]]:
    """Signals that ask to stop, for when it is safe: a job whose number was not read could not be cancelled."""
    noted: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda number, _frame: noted.append(number)) for number in numbers]
    try:
        yield noted
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
