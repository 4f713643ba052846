"""LoRA+ (Hayou et al., 2024, https://arxiv.org/abs/2402.12354): LoRA with a higher learning rate for B."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.adapters.base import Factor
from stages.adapters.lora import LoraConfig
from stages.adapters.lora import init as init  # the same start


class Config(LoraConfig):
    """LoRA+."""

    method: Literal["loraplus"]
    learning_rate_ratio: Annotated[float, Field(ge=1)] = 16.0
    """B's learning rate over A's; 16 is the authors' choice (section 4)."""

    def rate_factor(self, factor: Factor) -> float:
        """`learning_rate_ratio` for B."""
        return self.learning_rate_ratio if factor == "B" else 1.0
