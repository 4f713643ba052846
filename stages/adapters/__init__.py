"""Methods of fine-tuning: one file each. All but `full` are adapters of the form W x + s B N A x with s = alpha / rank.

A method is a module here with a `Config` (whose `method` names it) and, for adapters, an `init`; adding one takes its
file and its test. Nothing here needs torch to be imported; `init` imports it when it is called.
"""

import importlib
import pkgutil
from collections.abc import Callable
from functools import reduce
from operator import or_
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import Field

from stages.adapters.base import AdapterConfig, Factors, MethodConfig


def methods() -> dict[str, ModuleType]:
    """The name of every method -> its module."""
    modules = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    return {module.__name__.rpartition(".")[2]: module for module in modules if hasattr(module, "Config")}


if TYPE_CHECKING:
    AnyAdapter = MethodConfig
else:
    AnyAdapter = Annotated[reduce(or_, (module.Config for module in methods().values())), Field(discriminator="method")]
"""The `adapter:` section of a recipe; `method` tells which."""


def initializer(config: AdapterConfig) -> Callable[[Any, Any, Any], Factors]:
    """The `init(weight, config, generator)` of the method that `config` belongs to."""
    return cast(Callable[[Any, Any, Any], Factors], method_module(config).init)


def method_module(config: MethodConfig) -> ModuleType:
    """The module of the method that `config` belongs to."""
    return importlib.import_module(type(config).__module__)
