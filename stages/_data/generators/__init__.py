"""Data generators, one per file, found by name. Files starting with an underscore are their private parts.

A generator has `Options` (a StrictModel, every field with a default) and
`generate(options, seed, num_train, num_validation, num_test) -> {split: [row, ...]}`.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from pipeline.strict import StrictModel


def names() -> list[str]:
    """The generators there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def load(name: str) -> ModuleType:
    """Raises ValueError listing the known names (inside a pydantic validator this becomes a recipe error)."""
    if name not in names():
        raise ValueError(f"unknown generator {name!r}, known: {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def options(name: str, values: Mapping[str, Any]) -> StrictModel:
    """The generator's `Options`. Raises ValueError in one line that names each wrong option, or the known ones."""
    kind: type[StrictModel] = load(name).Options
    try:
        return kind(**values)
    except ValidationError as error:
        raise ValueError("; ".join(_complaint(details, kind) for details in error.errors())) from None


def _complaint(details: Any, kind: type[StrictModel]) -> str:
    option = ".".join(map(str, details["loc"]))
    if details["type"] == "value_error":
        return str(details["ctx"]["error"])
    if details["type"] == "extra_forbidden":
        return f"{option}: unknown option, expected one of {', '.join(kind.model_fields)}"
    return f"{option}: found {details['input']!r}, expected {details['msg'].removeprefix('Input should be ')}"
