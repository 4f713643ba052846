"""LoRA (Hu et al., 2021, https://arxiv.org/abs/2106.09685): W x + s B A x, A random, B zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stages.adapters.base import AdapterConfig, Factors, WeightReader
from stages.adapters.kaiming import kaiming_uniform

if TYPE_CHECKING:
    import torch


class Config(AdapterConfig):
    """LoRA as PEFT has it."""

    method: Literal["lora"]


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """A by Kaiming's rule, B zero: training starts at the base model."""
    import torch

    num_out, num_in = weight.shape
    return Factors(kaiming_uniform(config.rank, num_in, generator), None, torch.zeros(num_out, config.rank))
