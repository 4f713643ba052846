"""Rank-stabilised LoRA (Kalajdzievski, 2023, https://arxiv.org/abs/2312.03732): LoRA scaled by alpha / sqrt(rank)."""

from __future__ import annotations

import math
from typing import Any, Literal

from stages.adapters.lora import LoraConfig
from stages.adapters.lora import init as init  # the same start


class Config(LoraConfig):
    """As LoRA; by default alpha = rank, so that the scale is sqrt(rank)."""

    method: Literal["rslora"]

    @property
    def scaling(self) -> float:
        """Alpha / sqrt(rank)"""
        return (self.rank if self.alpha is None else self.alpha) / math.sqrt(self.rank)

    def peft_options(self) -> dict[str, Any]:
        """PEFT's own switch."""
        return {**super().peft_options(), "use_rslora": True}
