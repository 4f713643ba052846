"""Whether a job still stands for the work that was submitted: code and files may have changed since."""

from collections.abc import Iterator, Sequence

from pipeline.errors import UserError
from pipeline.plan import Plan, unfinished_inputs
from pipeline.slurm.submission import Piece, Submission
from pipeline.step import Step
from pipeline.store import Store
from pipeline.why import differences, identity


def as_submitted(plan: Plan, submission: Submission, pieces: Sequence[Piece], resume_command: str) -> list[Step]:
    """The steps of these pieces. Raises UserError with what has changed if any would be other work now."""
    known = {step.fingerprint: step for step in plan.steps}
    if any(piece.fingerprint not in known for piece in pieces):
        changes = list(dict.fromkeys(_changes(plan, submission, known)))
        own = [line for line in changes if ": input " not in line] or changes
        raise UserError(
            f"{submission.recipe}: the code or the files have changed since it was submitted "
            f"({submission.submitted_at}): {'; '.join(own[:3])}. Submit again: {resume_command}"
        )
    return [known[piece.fingerprint] for piece in pieces]


def check_inputs(pending: list[Step], store: Store, resume_command: str) -> None:
    """Raises UserError when something is gone that was there when they were submitted."""
    if missing := unfinished_inputs(pending, store):
        lines = (f"{name}: is not in the store {store.root}, and {reader} reads it" for name, reader in missing.items())
        raise UserError(*lines, f"submit again, which does it first: {resume_command}")


def _changes(plan: Plan, submission: Submission, known: dict[str, Step]) -> Iterator[str]:
    """What makes pieces of the whole submission others than they were, a line each."""
    now = {step.name: step for step in plan.steps} | plan.aliases
    for piece in (piece for job in submission.jobs for task in job.tasks for piece in task):
        if piece.fingerprint in known:
            continue
        if piece.name not in now or not piece.identity:
            yield f"{piece.name}: {'other work' if piece.name in now else 'no step'} now"
        else:
            yield from (f"{piece.name}: {line}" for line in differences(piece.identity, identity(now[piece.name])))
