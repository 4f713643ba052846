"""What each recipe was last run as: STORE/runs/<recipe>.json, the memory behind `stale`, `why` and `gc`."""

import os
from collections.abc import Mapping
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


def update(
    store: Store, recipe: Path, overrides: list[str] | None = None, steps: Mapping[str, str] | None = None
) -> History:
    """Change the record of a recipe, and return it. Several jobs of one recipe may do so at once."""
    path = _file(store, recipe)
    with store.lock("runs", _folder_digest(recipe)):
        record = read(store, recipe)
        record = record.model_copy(
            update={
                "overrides": record.overrides if overrides is None else overrides,
                "steps": {**record.steps, **(steps or {})},
            }
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(record.model_dump_json(indent=1))
        temporary.replace(path)
    return record


def all_of(store: Store) -> list[History]:
    """The records of every recipe that ran in this store."""
    return [History.model_validate_json(path.read_text()) for path in sorted((store.root / "runs").glob("*.json"))]


def _file(store: Store, recipe: Path) -> Path:
    """Two recipes of one name in two folders have two records."""
    return store.root / "runs" / f"{recipe.stem}-{_folder_digest(recipe)}.json"


def _folder_digest(recipe: Path) -> str:
    import hashlib

    return hashlib.sha256(str(recipe.absolute().parent).encode()).hexdigest()[:8]
