"""StructuredLoRA (NLoRA paper, section 3, eq. 7): an r x r core N between LoRA's two factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from stages.adapters.base import Factors, WeightReader
from stages.adapters.magnitude import row_lengths
from stages.adapters.random import Start, random_factor
from stages.adapters.structured import StructuredConfig

if TYPE_CHECKING:
    import torch


class Config(StructuredConfig):
    """SLoRA."""

    method: Literal["slora"]
    core: Start = "kaiming"
    """How N starts; the paper uses `kaiming` (Table 7)."""

    PEFT_INIT: ClassVar[bool | str] = "s_lora"


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """A by Kaiming's rule, N random, B zero: training starts at the base model."""
    import torch

    num_out, num_in = weight.shape
    return Factors(
        A_RI=random_factor("kaiming", config.rank, num_in, config.rank, generator),
        N_RR=random_factor(config.core, config.rank, config.rank, config.rank, generator),
        B_OR=torch.zeros(num_out, config.rank),
        magnitude_O=row_lengths(weight) if config.dora else None,
        order=config.order,
    )
