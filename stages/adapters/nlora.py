"""NystromLoRA (NLoRA paper, section 3): SLoRA's three factors, started from slices of the weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stages.adapters.base import Factors, WeightReader
from stages.adapters.nystrom import NystromConfig, nystrom

if TYPE_CHECKING:
    import torch


class Config(NystromConfig):
    """NLoRA: all three factors are trained."""

    method: Literal["nlora"]


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """The Nystrom factors; nothing is random with leading rows and columns."""
    return nystrom(weight, config)
