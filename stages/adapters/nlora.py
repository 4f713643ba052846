"""NystromLoRA (NLoRA paper, section 3): SLoRA's three factors, started from slices of the weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from stages.adapters.base import Factors, WeightReader
from stages.adapters.budget import Budget, BudgetPart, require_lower_target
from stages.adapters.magnitude import row_lengths
from stages.adapters.nystrom import NystromConfig, nystrom
from stages.adapters.structured import StructuredConfig
from stages.adapters.training import TrainingContext, TrainingPart

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


class Config(NystromConfig, StructuredConfig):
    """NLoRA: all three factors are trained."""

    method: Literal["nlora"]
    budget: Budget | None = None
    """Take rows of N away while training, as AdaLoRA takes terms; by default all R stay."""

    @model_validator(mode="after")
    def _budget_fits(self) -> Self:
        if self.budget is None:
            return self
        for rank in (self.rank, *self.rank_pattern.values()):
            require_lower_target(self.budget, rank)
        if self.order != "BNA":
            raise ValueError(f"budget: found with order: {self.order}, where rows of N weigh no terms; use order: BNA")
        if self.dora:
            raise ValueError("budget: found with dora: true, whose row lengths hide what a term adds; leave one out")
        return self


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """The Nystrom factors; nothing is random with leading rows and columns."""
    factors = nystrom(weight, config, generator)
    if not config.dora:
        return factors
    kept = None if config.subtracts_start else factors
    return factors._replace(magnitude_O=row_lengths(weight, kept, config.scaling))


def training(config: Config, context: TrainingContext) -> TrainingPart:
    """Its part in training."""
    return TrainingPart() if config.budget is None else CoreBudget(config.budget, context)


class CoreBudget(BudgetPart):
    """AdaLoRA's budget over the terms b_k n_k A of B N A = B diag(1) N A, where n_k is row k of N.

    So b_k and n_k are a term's vectors and its weight is 1: the weight's gradient is n_k . dL/dn_k, and a term is taken
    away with its row of N. A is shared by all terms of a matrix and tells none of them apart.
    """

    WEIGHTS = "N"

    def terms(self, factors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Rows of N, columns of B, ones."""
        core_RR = factors["N"]
        return {"A": core_RR, "B": factors["B"], "E": core_RR.new_ones(len(core_RR), 1)}

    def term_gradients(
        self, factors: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """That of N, of B, and of the ones."""
        weights_R1 = (factors["N"] * gradients["N"]).sum(dim=1, keepdim=True)
        return {"A": gradients["N"], "B": gradients["B"], "E": weights_R1}
