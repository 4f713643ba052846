"""AdaLoRA's budget (Zhang et al., 2023, https://arxiv.org/abs/2303.10512, section 3): ranks move to where they matter.

An update is a sum of rank-one terms with a weight each. While training goes on, the terms that matter least over all
matrices lose their weight, until `target_rank` of them are left on average. How much a number matters is PEFT's
measure, in PEFT's RankAllocator: |value * gradient| smoothed over steps, times how much that varies.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from pipeline.strict import StrictModel
from stages.adapters.base import Rank
from stages.adapters.training import TrainingContext, TrainingPart

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    Values = Mapping[str, torch.Tensor]

_PATTERN_FILE, _STATE_FILE = "rank_pattern.json", "importance.safetensors"
_ADAPTER = "default"  # PEFT's name for a model's first adapter
_FACTOR = re.compile(rf"base_model\.model\.(.*)\.lora_(.)\.{_ADAPTER}(\.weight)?")
_Share = Annotated[float, Field(ge=0, lt=1)]
_Beta = Annotated[float, Field(gt=0, lt=1)]


class Budget(StrictModel):
    """How many terms are left, and when the others go."""

    target_rank: Rank
    """Terms that are left for one matrix, on average over all."""
    initial_share: _Share = 0.1
    """The share of steps before the first term goes."""
    final_share: _Share = 0.3
    """The share of steps after the last has gone."""
    allocate_every: Annotated[int, Field(ge=1)] = 10
    """Steps from one choice of terms to the next."""
    beta1: _Beta = 0.85
    """Of the running mean of |value * gradient|."""
    beta2: _Beta = 0.85
    """Of the running mean of its distance from that mean."""

    @model_validator(mode="after")
    def _leaves_time_for_choices(self) -> Self:
        if self.initial_share + self.final_share >= 1:
            raise ValueError(
                f"final_share: got {self.final_share} with initial_share {self.initial_share}; "
                f"their sum must be < 1, as terms go between them"
            )
        return self

    def peft_schedule(self, num_steps: int) -> dict[str, Any]:
        """The same for a training of so many steps, as PEFT's AdaLoraConfig names it."""
        return {
            "target_r": self.target_rank,
            "tinit": math.floor(self.initial_share * num_steps),
            "tfinal": math.floor(self.final_share * num_steps),
            "deltaT": self.allocate_every,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "total_step": num_steps,
        }


def require_lower_target(budget: Budget, rank: int) -> None:
    """Raise ValueError if there is nothing to take away."""
    if budget.target_rank >= rank:
        raise ValueError(f"target_rank: got {budget.target_rank}, must be < rank = {rank}, from which terms are taken")


class BudgetPart(TrainingPart):
    """Takes terms away in PEFT's order of events: after the optimizer's step, by that step's gradient.

    PEFT's allocator works on parameters in place, which DeepSpeed does not let it; it gets whole copies of values and
    gradients here, the same on every process, and what it takes away is written back.
    """

    WEIGHTS: ClassVar[str]
    """The factor whose rows weigh the terms."""

    def __init__(self, budget: Budget, context: TrainingContext) -> None:
        from peft import AdaLoraConfig
        from peft.tuners.adalora.layer import RankAllocator

        self.context = context
        self.factors = _factors(context.engine.module.named_parameters())
        self.schedule = AdaLoraConfig(**budget.peft_schedule(context.num_steps))
        self.last_choice = context.num_steps - self.schedule.tfinal
        self.allocator: Any = RankAllocator(self._shapes(), self.schedule, _ADAPTER)
        self.kept: dict[str, list[bool]] = {}
        self.gradients: dict[str, Values] = {}

    def terms(self, factors: Values) -> dict[str, torch.Tensor]:
        """The vectors `A` [R, any] and `B` [any, R] of one matrix's terms and their weights `E` [R, 1]."""
        raise NotImplementedError

    def term_gradients(self, factors: Values, gradients: Values) -> dict[str, torch.Tensor]:
        """The loss's gradient with respect to each of `terms`."""
        raise NotImplementedError

    def gradients_complete(self, step: int) -> None:
        """Keep the gradients until the optimizer has stepped, when DeepSpeed has them no more."""
        from stages._training import whole

        if step + 1 < self.last_choice:
            self.gradients = {
                module: {letter: whole.gradient(parameter) for letter, parameter in factors.items()}
                for module, factors in self.factors.items()
            }

    def step_done(self, step: int, gradient_norm: float) -> None:
        """Choose the terms to keep, where it is time, and take the weights of the others."""
        number = step + 1  # PEFT counts from one
        chosen = None
        if number <= self.last_choice:
            now = self._model(self.context.clipping(gradient_norm))
            _, chosen = self.allocator.update_and_allocate(now, number, force_mask=number == self.last_choice)
        if number == self.last_choice:
            self.allocator.reset_ipt()
        self.gradients = {}
        self.kept = chosen or self.kept
        if chosen or number > self.last_choice:
            self._take_weights()

    def save(self, folder: Path) -> None:
        """What was kept, and the running means."""
        from safetensors.torch import save_file

        means = {"mean": self.allocator.exp_avg_ipt, "spread": self.allocator.exp_avg_unc}
        tensors = {f"{kind}.{name}": tensor for kind, each in means.items() for name, tensor in each.items()}
        save_file(tensors, folder / _STATE_FILE)
        (folder / _PATTERN_FILE).write_text(json.dumps(self.kept))

    def load(self, folder: Path) -> None:
        """The same."""
        from safetensors.torch import load_file

        tensors = load_file(folder / _STATE_FILE)
        self.kept = json.loads((folder / _PATTERN_FILE).read_text())
        for kind, means in (("mean.", self.allocator.exp_avg_ipt), ("spread.", self.allocator.exp_avg_unc)):
            means.update({name.removeprefix(kind): tensors[name] for name in tensors if name.startswith(kind)})
        self.allocator.ipt.update(self.allocator.exp_avg_ipt)  # only asked which names it has

    def _take_weights(self) -> None:
        import torch

        from stages._training import whole

        for name, kept in self.kept.items():
            weights = self.factors[name.partition(".lora_")[0]][self.WEIGHTS]
            value_RX = whole.value(weights)
            whole.set_value(weights, value_RX.masked_fill(~torch.tensor(kept, device=value_RX.device)[:, None], 0.0))

    def _model(self, clipping: float) -> _Terms:
        """All terms as they are now, with the gradients of the step that led here."""
        from stages._training import whole

        tensors = {}
        for module, factors in self.factors.items():
            values = {letter: whole.value(parameter) for letter, parameter in factors.items()}
            before = self.gradients.get(module)
            gradients = self.term_gradients(values, before) if before else {}
            for letter, value in self.terms(values).items():
                gradient = gradients[letter] * clipping if before else None
                tensors[f"{module}.lora_{letter}.{_ADAPTER}"] = value, gradient
        return _Terms(tensors)

    def _shapes(self) -> _Terms:
        import torch

        ranks = {module: _shape(factors[self.WEIGHTS])[0] for module, factors in self.factors.items()}
        return _Terms({f"{module}.lora_A.{_ADAPTER}": (torch.empty(rank), None) for module, rank in ranks.items()})


class _Terms:
    """What PEFT's allocator takes for a model: parameters by name, with gradients."""

    def __init__(self, tensors: Mapping[str, tuple[torch.Tensor, torch.Tensor | None]]) -> None:
        import torch

        self._parameters = {}
        for name, (value, gradient) in tensors.items():
            self._parameters[name] = torch.nn.Parameter(value)
            self._parameters[name].grad = gradient

    def named_parameters(self) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """As a module's."""
        return self._parameters.items()


def _factors(parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> dict[str, dict[str, torch.nn.Parameter]]:
    """Module name -> letter of a trained factor -> its parameter."""
    factors: dict[str, dict[str, torch.nn.Parameter]] = {}
    for name, parameter in parameters:
        found = _FACTOR.fullmatch(name)
        if found and parameter.requires_grad:
            factors.setdefault(found[1], {})[found[2]] = parameter
    return factors


def _shape(parameter: Any) -> tuple[int, ...]:
    """Whole, at ZeRO-3 too."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
