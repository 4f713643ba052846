"""LoRA (Hu et al., 2021, https://arxiv.org/abs/2106.09685): W x + s B A x, A random, B zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from stages.adapters.base import AdapterConfig, Factors, WeightReader
from stages.adapters.random import Start, random_factor

if TYPE_CHECKING:
    import torch


class LoraConfig(AdapterConfig):
    """LoRA's start, for LoRA and for methods that differ from it in training only."""

    start: Start = "kaiming"
    """How A starts."""


class Config(LoraConfig):
    """LoRA as PEFT has it."""

    method: Literal["lora"]


def init(weight: WeightReader, config: LoraConfig, generator: torch.Generator) -> Factors:
    """A random, B zero: training starts at the base model."""
    import torch

    num_out, num_in = weight.shape
    a_RI = random_factor(config.start, config.rank, num_in, config.rank, generator)
    return Factors(a_RI, None, torch.zeros(num_out, config.rank))
