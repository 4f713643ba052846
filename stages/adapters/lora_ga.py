"""LoRA-GA (Wang et al., 2024, https://arxiv.org/abs/2407.05000): LoRA's factors start as singular vectors of dL/dW.

The first step of LoRA then moves W as nearly as rank 2r allows to where full fine-tuning would move it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.adapters.base import Factors, GradientReader
from stages.adapters.gradient import GradientConfig
from stages.adapters.svd import fast_svd

if TYPE_CHECKING:
    import torch

_ITERATIONS = 4
"""Of the subspace iteration behind every singular value here, as in PEFT."""


class Config(GradientConfig):
    """LoRA-GA with PEFT's options; the base becomes W less s B A, so training starts at the base model."""

    method: Literal["lora_ga"]
    direction: Literal["ArBr", "A2rBr", "ArB2r", "random"] = "ArB2r"
    """Which of the gradient's 2r leading singular vectors go to A and to B. `ArB2r`: A the first r, B the second;
    `A2rBr`: the reverse; `ArBr`: B the first, third, ..., A those between; `random`: the same r for both, at random.
    """
    scale: Literal["stable", "weight_svd", "gd_scale", "unit"] = "stable"
    """The size of the start. `stable`: B times O^(1/4) / sqrt(stable_gamma); `weight_svd`: B's first column as long as
    W's largest singular value; `gd_scale`: both divided by s; `unit`: as they are.
    """
    stable_gamma: Annotated[int, Field(ge=1)] = 16

    @property
    def num_directions(self) -> int:
        """The 2r singular vectors."""
        return 2 * self.rank

    @property
    def subtracts_start(self) -> bool:
        """Always."""
        return True


def init(weight: GradientReader, config: Config, generator: torch.Generator) -> Factors:
    """A = r rows of V, B = r columns of U S, for dL/dW = U S V; the numbers that PEFT gives for the same gradient."""
    gradient_OI = weight.gradient()
    svd = fast_svd(gradient_OI, min(4 * config.rank, *gradient_OI.shape), _ITERATIONS, generator)
    for_a, for_b = _directions(config, generator)
    a_RI, b_OR = svd.V_RI[for_a], svd.U_OR[:, for_b] * svd.S_R[for_b]
    if config.scale == "stable":
        b_OR = b_OR * (weight.shape[0] ** 0.25 / config.stable_gamma**0.5)
    elif config.scale == "weight_svd" and svd.S_R[for_b[0]] > 0:
        largest = fast_svd(weight.full(), config.rank, _ITERATIONS, generator).S_R[0]
        b_OR = b_OR * (largest / svd.S_R[for_b[0]])
    elif config.scale == "gd_scale":
        a_RI, b_OR = a_RI / config.scaling, b_OR / config.scaling
    return Factors(a_RI, None, b_OR)


def _directions(config: Config, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(numbers of the singular vectors for A, for B)"""
    import torch

    rank, leading = config.rank, torch.arange(2 * config.rank)
    if config.direction == "ArBr":
        return leading[1::2], leading[::2]
    if config.direction == "A2rBr":
        return leading[rank:], leading[:rank]
    if config.direction == "ArB2r":
        return leading[:rank], leading[rank:]
    chosen = torch.randperm(2 * rank, generator=generator)[:rank]
    return chosen, chosen
