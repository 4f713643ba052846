"""NystromLoRA (NLoRA paper, section 3): SLoRA's three factors, started from slices of the weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stages.adapters.base import Factors, WeightReader
from stages.adapters.magnitude import row_lengths
from stages.adapters.nystrom import NystromConfig, nystrom
from stages.adapters.structured import StructuredConfig

if TYPE_CHECKING:
    import torch


class Config(NystromConfig, StructuredConfig):
    """NLoRA: all three factors are trained."""

    method: Literal["nlora"]


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """The Nystrom factors; nothing is random with leading rows and columns."""
    factors = nystrom(weight, config, generator)
    if not config.dora:
        return factors
    kept = None if config.subtracts_start else factors
    return factors._replace(magnitude_O=row_lengths(weight, kept, config.scaling))
