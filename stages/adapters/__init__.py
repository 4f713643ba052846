"""Adapter methods: one file each, all of the form W x + s B N A x with s = alpha / rank.

A new method is one file here (its `Config` and its `init`) and its name in `AnyAdapter`. Nothing here needs torch
to be imported; `init` imports it when it is called.
"""

import importlib
from collections.abc import Callable
from typing import Annotated, Any, cast

from pydantic import Field

from stages.adapters import inttune, lora, nlora, slora
from stages.adapters.base import AdapterConfig, Factors

AnyAdapter = Annotated[lora.Config | slora.Config | nlora.Config | inttune.Config, Field(discriminator="method")]
"""The `adapter:` section of a recipe; `method` tells which."""


def initializer(config: AdapterConfig) -> Callable[[Any, Any, Any], Factors]:
    """The `init(weight, config, generator)` of the method that `config` belongs to."""
    module = importlib.import_module(type(config).__module__)
    return cast(Callable[[Any, Any, Any], Factors], module.init)
