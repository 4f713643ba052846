"""`gc`: what no recipe reaches any more. Only lists it, unless told to delete."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands import arguments as shared

if TYPE_CHECKING:
    from pipeline.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="*", type=Path, help="recipes to keep, besides those that ran in this store")
    shared.add_store(parser)
    parser.add_argument("--delete", action="store_true", help="delete what is listed")


def main(arguments: argparse.Namespace) -> int:
    from pipeline.store import Store, remove

    store = Store(arguments.store)
    kept = _reached(store, arguments.recipes)
    doomed = [
        path for path in [*store.artifacts(), *store.partials()] if _key(path) not in kept and not _in_use(store, path)
    ]
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


def _reached(store: "Store", recipes: list[Path]) -> set[tuple[str, str]]:
    """Stage and short fingerprint of every step of every recipe that ran here (as it is now) or is named.

    A recipe that cannot be read any more raises UserError: its artifacts must not be lost to a typing error.
    """
    from pipeline import history, plan

    wanted = [(record.recipe, record.overrides) for record in history.all_of(store) if record.recipe.exists()]
    wanted += [(recipe, []) for recipe in recipes]
    return {
        (step.stage, step.fingerprint[:16])
        for recipe, overrides in wanted
        for step in plan.load(recipe, overrides).steps
    }


def _key(path: Path) -> tuple[str, str]:
    return path.parent.name, path.name.removesuffix(".partial")


def _in_use(store: "Store", path: Path) -> bool:
    stage, fingerprint = _key(path)
    return store.lock(stage, fingerprint).is_held()
