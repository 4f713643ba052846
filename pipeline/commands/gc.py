"""`gc`: what no recipe and no job in the queue reaches any more. Only lists it, unless told to delete."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="*", type=Path, help="recipes to keep, besides those that ran in this store")
    shared.add_store(parser)
    parser.add_argument("--delete", action="store_true", help="delete what is listed")


def main(arguments: argparse.Namespace) -> int:
    from pipeline.store import Store

    store = Store(arguments.store)
    if not arguments.delete or not store.root.is_dir():
        return _collect(store, arguments)
    from pipeline.slurm.refusals import alone

    with alone(store):  # what is submitted just now counts on what it finds
        return _collect(store, arguments)


def _collect(store: "Store", arguments: argparse.Namespace) -> int:
    from pipeline.store import remove

    kept = _reached(store, arguments.recipes)
    unused = _submissions(store, kept)
    doomed = [*_unreached_work(store, kept), *_unreached_answers(store, kept), *unused]
    total = 0
    for path in doomed:
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        total += size
        print(f"{size:>14,} bytes  {path}")
        if arguments.delete:
            remove(path)
    print(
        f"{len(doomed)} folders, {total:,} bytes "
        + ("deleted" if arguments.delete else "would be deleted; add --delete to do it")
    )
    return 0


@dataclass
class _Reached:
    """What the recipes lead to."""

    work: set[tuple[str, str]] = field(default_factory=set)
    """Stage and short fingerprint of each step."""
    answer_owners: set[str] = field(default_factory=set)
    """Fingerprints of models and endpoints."""

    def add(self, plan: "Plan") -> None:
        """Everything of a plan."""
        from pipeline.plan import workflow

        self.work |= {(step.stage, step.fingerprint[:16]) for step in plan.steps}
        for variant in plan.variants:
            self.answer_owners |= workflow().answer_owners(variant.recipe)


def _reached(store: "Store", recipes: list[Path]) -> _Reached:
    """What every recipe leads to that ran here (as it is now) or is named.

    A recipe that cannot be read any more raises UserError: its artifacts must not be lost to a typing error.
    """
    from pipeline import history, plan

    wanted = [(record.recipe, record.overrides) for record in history.all_of(store) if record.recipe.exists()]
    wanted += [(recipe, []) for recipe in recipes]
    reached = _Reached()
    for recipe, overrides in wanted:
        reached.add(plan.load(recipe, overrides))
    return reached


def _submissions(store: "Store", reached: _Reached) -> list[Path]:
    """Add what queued and running jobs still need to what is reached; the folders of those that are over and unused."""
    from pipeline.slurm import FOLDER

    if not (store.root / FOLDER).is_dir():
        return []
    from pipeline.slurm import keeping

    found = keeping.look(store)
    if found.silence:
        print(f"{found.silence}; kept what it may still do: {', '.join(each.id for each in found.alive)}")
    for submission in found.alive:
        reached.add(keeping.plan_of(store, submission))
        reached.work |= keeping.work_of(submission)
    return keeping.folders(store, found.over, reached.work)


def _unreached_work(store: "Store", kept: _Reached) -> list[Path]:
    """Artifacts and partials; those in use are left alone."""
    found = [path for path in [*store.artifacts(), *store.partials()] if _key(path) not in kept.work]
    return [path for path in found if not store.lock(*_key(path)).is_held()]


def _unreached_answers(store: "Store", kept: _Reached) -> list[Path]:
    found = [path for path in store.answers() if path.name not in kept.answer_owners]
    return [path for path in found if not store.is_written(path)]


def _key(path: Path) -> tuple[str, str]:
    return path.parent.name, path.name.removesuffix(".partial")
