"""DoRA (Liu et al., 2024, https://arxiv.org/abs/2402.09353): each row of W + s B A gets a trained length of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from stages.adapters import lora
from stages.adapters.base import Factors, WeightReader
from stages.adapters.magnitude import row_lengths

if TYPE_CHECKING:
    import torch


class Config(lora.LoraConfig):
    """DoRA as PEFT has it."""

    method: Literal["dora"]

    @property
    def has_magnitude(self) -> bool:
        """Always."""
        return True

    def peft_options(self) -> dict[str, Any]:
        """PEFT's own switch."""
        return {**super().peft_options(), "use_dora": True}


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """LoRA's start; the lengths are those of W's rows, so training starts at the base model."""
    return lora.init(weight, config, generator)._replace(magnitude_O=row_lengths(weight))
