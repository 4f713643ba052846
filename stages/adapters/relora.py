"""ReLoRA (Lialin et al., 2023, https://arxiv.org/abs/2307.05695): LoRA that is folded into the base and started anew.

After K rounds the update is s (B_1 A_1 + ... + B_K A_K), of rank K r: a plain LoRA of that rank, which is what is
written at the end. The folded factors of all rounds are part of every checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.errors import UserError
from stages.adapters.lora import LoraConfig
from stages.adapters.lora import init as init  # the same start
from stages.adapters.random import random_factor
from stages.adapters.training import TrainingContext, TrainingPart

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

_MEANS = ("exp_avg", "exp_avg_sq")


class Config(LoraConfig):
    """ReLoRA."""

    method: Literal["relora"]
    restart_every: Annotated[int, Field(ge=1)]
    """Steps from one restart to the next; there is none after the last step."""
    restart_warmup_steps: Annotated[int, Field(ge=0)] = 50
    """Steps in which the learning rate rises from zero to what the schedule says after each restart (section 3)."""
    keep_optimizer: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The share of AdamW's running means that a restart keeps, the largest of each factor; the paper prunes 90 to 99 %.
    At 0 AdamW starts anew, its count of steps included.
    """

    NEEDS_ADAMW: ClassVar[bool] = True


def training(config: Config, context: TrainingContext) -> TrainingPart:
    """Its part in training."""
    return Restarts(config, context)


class Restarts(TrainingPart):
    """Folds the factors into the base in memory, redraws A, zeroes B, prunes the optimizer's state.

    The base in the files stays as it is; a resumed run folds the same factors in the same order.
    """

    def __init__(self, config: Config, context: TrainingContext) -> None:
        from stages._peft.load import adapted_layers

        self.config, self.context = config, context
        self.is_first = context.engine.global_rank == 0
        self.layers: dict[str, Any] = dict(adapted_layers(context.engine.module))
        self.rounds: list[dict[str, torch.Tensor]] = []
        """On the first process: the factors that were folded, by their names in a file."""
        _require_unquantized(self.layers)

    def rate_factor(self, step: int) -> float:
        """The paper's jagged schedule (section 3): up again after each restart."""
        restarts, since = divmod(step, self.config.restart_every)
        return min(1.0, (since + 1) / (self.config.restart_warmup_steps + 1)) if restarts else 1.0

    def step_done(self, step: int, gradient_norm: float) -> None:
        """Restart where it is time."""
        restarts, since = divmod(step + 1, self.config.restart_every)
        if since == 0 and step + 1 < self.context.num_steps:
            self._restart(restarts)

    def save(self, folder: Path) -> None:
        """The folded factors of each round."""
        from safetensors.torch import save_file

        for number, factors in enumerate(self.rounds):
            save_file(factors, folder / f"round-{number:04d}.safetensors")

    def load(self, folder: Path) -> None:
        """Fold them again."""
        from safetensors.torch import load_file

        for file in sorted(folder.glob("round-*.safetensors")):
            factors = load_file(file)
            for module in self.layers:
                self._fold(module, factors[_name(module, "A")], factors[_name(module, "B")])
            self._remember(factors)

    def final(
        self, tensors: dict[str, torch.Tensor], config: dict[str, Any]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """All rounds side by side as one LoRA against the untouched base; alpha grows with the rank, s stays."""
        import torch

        rounds = [*self.rounds, {name: tensor.cpu() for name, tensor in tensors.items()}]
        joined = {name: torch.cat([each[name] for each in rounds], dim=int("lora_B" in name)) for name in tensors}
        patterns = {
            name: {key: value * len(rounds) for key, value in config[name].items()}
            for name in ("rank_pattern", "alpha_pattern")
        }
        sizes = {name: config[name] * len(rounds) for name in ("r", "lora_alpha")}
        return joined, {**config, **patterns, **sizes}

    def _restart(self, number: int) -> None:
        from stages._training import whole

        folded: dict[str, torch.Tensor] = {}
        for module, layer in self.layers.items():
            a, b = (factor["default"].weight for factor in (layer.lora_A, layer.lora_B))
            a_RI, b_OR = whole.value(a), whole.value(b)
            self._fold(module, a_RI, b_OR)
            folded |= {_name(module, "A"): a_RI.cpu(), _name(module, "B"): b_OR.cpu()}
            whole.set_value(a, self._redrawn(module, number, a_RI))
            whole.set_value(b, b_OR.new_zeros(b_OR.shape))
            for parameter in (a, b):
                self._prune(parameter)
        if self.config.keep_optimizer == 0:
            whole.forget_step_count(self.context.engine)
        self._remember(folded)

    def _redrawn(self, module: str, number: int, a_RI: torch.Tensor) -> torch.Tensor:
        from stages._adaptation.start import generator_for

        generator = generator_for(f"{module}:restart {number}", self.context.seed)
        rank, num_in = a_RI.shape
        return random_factor(self.config.start, rank, num_in, rank, generator).to(a_RI.device)

    def _fold(self, module: str, a_RI: torch.Tensor, b_OR: torch.Tensor) -> None:
        """W += s B A in float32, rounded once to the dtype of W; at ZeRO-3 the first process writes it."""
        import torch
        from deepspeed import zero

        from stages._weights.partitioned import is_partitioned

        layer = self.layers[module]
        weight = layer.get_base_layer().weight
        divided = is_partitioned(weight)
        with torch.no_grad(), zero.GatheredParameters([weight], modifier_rank=0, enabled=divided):
            if not divided or self.is_first:
                update_OI = layer.scaling["default"] * (b_OR.to(weight.device) @ a_RI.to(weight.device))
                weight.copy_(weight.float() + update_OI)

    def _prune(self, parameter: torch.nn.Parameter) -> None:
        """Keep both running means where the gradient's mean is largest.

        The authors' code prunes each by its own size, which can leave a mean without its square: a huge step.
        """
        from stages._training import whole

        mean, square = (whole.optimizer_state(self.context.engine, parameter, key) for key in _MEANS)
        kept = largest(mean, self.config.keep_optimizer)
        for key, state in zip(_MEANS, (mean, square), strict=True):
            whole.set_optimizer_state(self.context.engine, parameter, key, state * kept)

    def _remember(self, folded: dict[str, torch.Tensor]) -> None:
        if self.is_first:
            self.rounds.append(folded)


def largest(values: torch.Tensor, share: float) -> torch.Tensor:
    """Where the `share` of largest magnitude is, as booleans; of equal ones at the limit none is."""
    import torch

    magnitudes = values.abs()
    num_dropped = magnitudes.numel() - round(share * magnitudes.numel())
    if num_dropped == 0:
        return torch.ones_like(values, dtype=torch.bool)
    return magnitudes > magnitudes.flatten().kthvalue(num_dropped).values


def _name(module: str, letter: str) -> str:
    """Of a factor in PEFT's file."""
    return f"base_model.model.{module}.lora_{letter}.weight"


def _require_unquantized(layers: Mapping[str, Any]) -> None:
    for module, layer in layers.items():
        weight = layer.get_base_layer().weight
        if not weight.is_floating_point():
            raise UserError(
                f"adapter.method: relora folds its factors into the base, found {module} in {weight.dtype}; "
                f"use an unquantized base"
            )
