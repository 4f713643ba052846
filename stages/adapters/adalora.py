"""AdaLoRA (Zhang et al., 2023, https://arxiv.org/abs/2303.10512): W + s B diag(E) A, whose rank training reduces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from stages.adapters.base import AdapterConfig, Factor, Factors, WeightReader
from stages.adapters.budget import Budget, BudgetPart, require_lower_target

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from stages.adapters.training import TrainingContext

_DEVIATION = 0.02
"""Of the normal distribution that A and B start from, as PEFT has it."""


class Config(Budget, AdapterConfig):
    """AdaLoRA as PEFT has it; `rank` is each matrix's at the start."""

    method: Literal["adalora"]
    orthogonal_weight: Annotated[float, Field(ge=0)] = 0.5
    """Of the loss's second part, the mean of the norms of A A' - I and B' B - I over all factors (eq. 4, unsquared)."""

    TRAINABLE: ClassVar[tuple[Factor, ...]] = ("A", "N", "B")

    @property
    def scaling(self) -> float:
        """Alpha / rank with PEFT's guard against a rank of zero; the rank is the start's, whatever is left of it."""
        return (self.rank if self.alpha is None else self.alpha) / (self.rank + 1e-5)

    def num_trainable(self, num_out: int, num_in: int) -> int:
        """Of A, B and the diagonal, before any rank is taken away."""
        return self.rank * (num_out + num_in + 1)

    def peft_options(self) -> dict[str, Any]:
        """PEFT's own configuration; the schedule of a training of one step stands in until there is one."""
        own = {"peft_type": "ADALORA", "init_r": self.rank, "orth_reg_weight": self.orthogonal_weight}
        unused: dict[str, Any] = {
            "r": 8,
            "rank_pattern": None,
            "alpha_pattern": {},
        }  # PEFT warns of an r other than its default
        return {**super().peft_options(), **own, **unused, **self.peft_schedule(1)}

    @model_validator(mode="after")
    def _one_rank_for_all(self) -> Self:
        require_lower_target(self, self.rank)
        for name in ("rank_pattern", "alpha_pattern"):
            if getattr(self, name):
                raise ValueError(f"{name}: found with method: adalora, whose budget sets ranks; leave it out")
        return self


def init(weight: WeightReader, config: Config, generator: torch.Generator) -> Factors:
    """A and B random, the diagonal zero: training starts at the base model."""
    import torch

    num_out, num_in = weight.shape
    a_RI = torch.empty(config.rank, num_in).normal_(0, _DEVIATION, generator=generator)
    b_OR = torch.empty(num_out, config.rank).normal_(0, _DEVIATION, generator=generator)
    return Factors(a_RI, torch.zeros(config.rank), b_OR)


def training(config: Config, context: TrainingContext) -> AdaLora:
    """Its part in training."""
    return AdaLora(config, context)


class AdaLora(BudgetPart):
    """The budget, and the loss's second part."""

    WEIGHTS = "E"

    def __init__(self, config: Config, context: TrainingContext) -> None:
        super().__init__(config, context)
        self.config = config

    def terms(self, factors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The factors themselves."""
        return dict(factors)

    def term_gradients(
        self, factors: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Theirs."""
        return dict(gradients)

    def gradients_complete(self, step: int) -> None:
        """Add the gradient of the loss's second part: no forward pass, so nothing to gather for autograd at ZeRO-3."""
        from stages._training import whole

        weight = self.config.orthogonal_weight / (2 * len(self.factors))
        for factors in self.factors.values():
            for letter in "AB":
                slope = weight * distance_slope(whole.value(factors[letter]), letter)
                whole.set_gradient(factors[letter], whole.gradient(factors[letter]) + slope)
        super().gradients_complete(step)

    def final(
        self, tensors: dict[str, torch.Tensor], config: dict[str, Any]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """PEFT's form: only the terms that are left, which ones they are, and the schedule there was."""
        import torch

        patterns = {name.removesuffix(".default"): kept for name, kept in self.kept.items()}
        left = {}
        for name, tensor in tensors.items():
            module, _, letter = name.removeprefix("base_model.model.").rpartition(".lora_")
            kept = torch.tensor(patterns[f"{module}.lora_E"], device=tensor.device)
            left[name] = tensor[:, kept] if letter == "B" else tensor[kept]
        schedule = self.config.peft_schedule(self.context.num_steps)
        return left, {**config, **schedule, "rank_pattern": patterns}


def distance_slope(factor: torch.Tensor, letter: str) -> torch.Tensor:
    """The gradient of ||A A' - I|| at A [R, I], or of ||B' B - I|| at B [O, R]: 2 (A A' - I) A / ||A A' - I||."""
    import torch

    a_RX = factor if letter == "A" else factor.T
    excess_RR = a_RX @ a_RX.T - torch.eye(len(a_RX), dtype=a_RX.dtype, device=a_RX.device)
    norm = torch.linalg.matrix_norm(excess_RR)
    slope_RX = 2 * excess_RR @ a_RX / norm if norm > 0 else torch.zeros_like(a_RX)
    return slope_RX if letter == "A" else slope_RX.T
