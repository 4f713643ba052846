"""What each recipe was last run as: STORE/runs/<recipe>.json, the memory behind `stale`, `why` and `gc`."""

import os
from pathlib import Path

from pipeline.store import Store
from pipeline.strict import StrictModel


class History(StrictModel):
    """One recipe file, its last `--set` overrides, and the fingerprint each step name last had when sealed."""

    recipe: Path
    overrides: list[str] = []
    steps: dict[str, str] = {}


def read(store: Store, recipe: Path) -> History:
    """The record of a recipe; an empty one when it never ran here."""
    path = _file(store, recipe)
    if not path.exists():
        return History(recipe=recipe.absolute())
    return History.model_validate_json(path.read_text())


def write(store: Store, history: History) -> None:
    """Replace the record atomically."""
    path = _file(store, history.recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(history.model_dump_json(indent=1))
    temporary.replace(path)


def all_of(store: Store) -> list[History]:
    """The records of every recipe that ran in this store."""
    return [History.model_validate_json(path.read_text()) for path in sorted((store.root / "runs").glob("*.json"))]


def _file(store: Store, recipe: Path) -> Path:
    """Two recipes of one name in two folders have two records."""
    import hashlib

    folder = hashlib.sha256(str(recipe.absolute().parent).encode()).hexdigest()[:8]
    return store.root / "runs" / f"{recipe.stem}-{folder}.json"
