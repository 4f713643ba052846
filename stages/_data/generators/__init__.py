"""Data generators, one per file, found by name. Files starting with an underscore are their private parts.

A generator has `Options` (a StrictModel, every field with a default) and
`generate(options, seed, num_train, num_validation, num_test) -> {split: [row, ...]}`.
"""

import importlib
import pkgutil
from types import ModuleType


def names() -> list[str]:
    """The generators there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> ModuleType:
    """Raises ValueError listing the known names (inside a pydantic validator this becomes a recipe error)."""
    if name not in names():
        raise ValueError(f"unknown generator {name!r}, known: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")
