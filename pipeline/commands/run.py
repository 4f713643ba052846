"""`run RECIPE`: do every step that is not cached, then show the result."""

import argparse
import sys
from typing import TYPE_CHECKING

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.step import Step
    from pipeline.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_recipe(parser)
    shared.add_store(parser)
    shared.add_fetched(parser)
    shared.add_choice(parser)
    parser.add_argument(
        "--force", metavar="STEP", action="append", default=[], help="do this step again although it is cached"
    )
    shared.add_max_parallel(parser)
    add_dry_run(parser)


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do the preflight, only")


def main(arguments: argparse.Namespace) -> int:
    plan, store = shared.open_plan(arguments)
    forced = [plan.find(name) for name in arguments.force]
    carry_out(arguments, plan, store, shared.choose(plan, arguments), forced, shared.as_command(arguments))
    return 0


def carry_out(
    arguments: argparse.Namespace,
    plan: "Plan",
    store: "Store",
    chosen: "list[Step]",
    forced: "list[Step]",
    resume_command: str,
) -> None:
    """Do the chosen steps that are not cached, and the forced ones again; show the result. Or say so, for --dry-run."""
    from pipeline import history

    pending = [step for step in chosen if step in forced or not store.is_sealed(step.stage, step.fingerprint)]
    if not pending:
        print(f"nothing to do: all {len(chosen)} steps of {plan.name} are cached")
        return _show_result(plan, store)
    _refuse_unfinished_inputs(pending, store)
    if arguments.dry_run:
        print(f"would do {len(pending)} of {len(chosen)} steps: {', '.join(step.name for step in pending)}")
    _preflight(plan, pending, store)
    if arguments.dry_run:
        return None
    record = history.update(store, arguments.recipe, overrides=arguments.overrides)
    _discard(forced, store)
    _run(plan, store, record, chosen, resume_command, arguments.max_parallel)
    return _show_result(plan, store)


def _refuse_unfinished_inputs(pending: "list[Step]", store: "Store") -> None:
    from pipeline.errors import UserError
    from pipeline.plan import unfinished_inputs

    if missing := unfinished_inputs(pending, store):
        raise UserError(*(f"step {name}: is not done yet and {reader} reads it; run it first, or too: --only {name}"
                          for name, reader in missing.items()))  # fmt: skip


def _preflight(plan: "Plan", pending: "list[Step]", store: "Store") -> None:
    from pipeline.preflight import check

    check(plan, pending, store)


def _discard(forced: "list[Step]", store: "Store") -> None:
    from pipeline.store import remove

    for step in forced:
        for path in (store.directory(step.stage, step.fingerprint), store.partial(step.stage, step.fingerprint)):
            if path.exists():
                remove(path)


def _run(
    plan: "Plan", store: "Store", record: object, chosen: "list[Step]", resume_command: str, max_parallel: int
) -> None:
    from pipeline import display
    from pipeline.runner import Runner

    shown = display.choose()
    try:
        Runner(plan, store, record, shown, resume_command, max_parallel).run(chosen)  # type: ignore[arg-type]
    finally:
        shown.close()


def _show_result(plan: "Plan", store: "Store") -> None:
    """Print the `summary.md` of steps that nothing else reads, and where their pages are."""
    for step in plan.final_steps():
        folder = store.directory(step.stage, step.fingerprint)
        if (folder / "summary.md").exists():
            if plan.is_sweep:
                _print_markdown(f"## {step.name}\n")
            _print_markdown((folder / "summary.md").read_text())
        for page in sorted(folder.glob("*.html")):
            print(f"report: {page}")


def _print_markdown(text: str) -> None:
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text)
