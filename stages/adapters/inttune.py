"""IntermediateTune (NLoRA paper, section 4.3): NLoRA with only the r x r core N trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from stages.adapters.base import Factor, Factors, WeightReader
from stages.adapters.nystrom import NystromConfig, nystrom

if TYPE_CHECKING:
    import torch


class Config(NystromConfig):
    """IntTune: A and B stay as they start."""

    method: Literal["inttune"]

    TRAINABLE: ClassVar[tuple[Factor, ...]] = ("N",)
    PEFT_INIT: ClassVar[bool | str] = "int_tune"


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """The Nystrom factors; nothing is random with leading rows and columns."""
    return nystrom(weight, config, generator)
