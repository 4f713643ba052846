"""`evaluate RECIPE`: from the answers to the report, of models that are trained; `--rescore` needs no model."""

import argparse
from typing import TYPE_CHECKING

from pipeline.commands import arguments as shared
from pipeline.commands.run import add_dry_run, carry_out

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.step import Step
    from pipeline.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    shared.add_store(parser)
    shared.add_fetched(parser)
    parser.add_argument("--track", metavar="NAME", help="this track alone, with a report of its own")
    parser.add_argument(
        "--rescore", action="store_true", help="score the answers that are there once more, and report; needs no model"
    )
    shared.add_max_parallel(parser)
    add_dry_run(parser)


def main(arguments: argparse.Namespace) -> int:
    plan, store = shared.open_plan(arguments, arguments.track)
    chosen = _rescored(plan, store, arguments) if arguments.rescore else _evaluated(plan, store, arguments)
    forced = chosen if arguments.rescore else []
    carry_out(arguments, plan, store, chosen, forced, _command(arguments, rescore=arguments.rescore))
    return 0


def _evaluated(plan: "Plan", store: "Store", arguments: argparse.Namespace) -> "list[Step]":
    """All steps. Raises UserError when that would train."""
    from pipeline.errors import UserError
    from pipeline.plan import workflow

    training = workflow().TRAINING
    untrained = [step.name for step in _missing(plan.steps, store) if step.stage in training]
    if untrained:
        one_track = "" if arguments.track else "; --track NAME evaluates one track alone"
        run = shared.as_command(arguments)
        raise UserError(*(f"{name}: is not done, and evaluate does not train; first: {run} --until {name}{one_track}"
                          for name in untrained))  # fmt: skip
    return plan.steps


def _rescored(plan: "Plan", store: "Store", arguments: argparse.Namespace) -> "list[Step]":
    """The scoring steps and what is made of them. Raises UserError when they would lack something."""
    from pipeline.errors import UserError
    from pipeline.plan import workflow

    scoring = workflow().SCORING
    again = plan.downstream([step for step in plan.steps if step.stage in scoring])
    if not again:
        raise UserError(f"{arguments.recipe}: found no benchmark, expected one whose answers can be scored")
    missing = _missing([step for step in plan.steps if step not in again], store)
    if missing:
        raise UserError(
            f"--rescore: found nothing of {', '.join(step.name for step in missing)}, expected stored answers and what "
            f"the report shows of their models; first: {_command(arguments, rescore=False)}"
        )
    return again


def _missing(steps: "list[Step]", store: "Store") -> "list[Step]":
    return [step for step in steps if not store.is_sealed(step.stage, step.fingerprint)]


def _command(arguments: argparse.Namespace, rescore: bool) -> str:
    track = ["--track", arguments.track] if arguments.track else []
    return shared.as_command(arguments, "evaluate", [*track, *(["--rescore"] if rescore else [])])
