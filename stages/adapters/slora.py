"""StructuredLoRA (NLoRA paper, section 3, eq. 7): an r x r core N between LoRA's two factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from stages.adapters.base import AdapterConfig, Factor, Factors, WeightReader
from stages.adapters.kaiming import kaiming_uniform

if TYPE_CHECKING:
    import torch


class Config(AdapterConfig):
    """SLoRA."""

    method: Literal["slora"]

    TRAINABLE: ClassVar[tuple[Factor, ...]] = ("A", "N", "B")
    PEFT_INIT: ClassVar[bool | str] = "s_lora"


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """A and N by Kaiming's rule, B zero: training starts at the base model."""
    import torch

    num_out, num_in = weight.shape
    return Factors(
        A_RI=kaiming_uniform(config.rank, num_in, generator),
        N_RR=kaiming_uniform(config.rank, config.rank, generator),
        B_OR=torch.zeros(num_out, config.rank),
    )
