"""The optimizer over what is trained, the same one at every ZeRO stage; its rates are set at each step by `engine`."""

from typing import Any

import torch

from stages.adapters.base import Factor, MethodConfig
from stages.train import Config

RATE_FACTOR = "rate_factor"
"""The entry of an optimizer's parameter group that its learning rate is multiplied by."""


def build(model: torch.nn.Module, config: Config, adapter: MethodConfig) -> torch.optim.Optimizer:
    """Over the trained parameters of a model.

    PyTorch's RMSprop adds weight decay to the gradient; both forms of AdamW take it off the weights.
    """
    groups = rate_groups(model, adapter)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            groups,
            lr=config.learning_rate,
            alpha=config.rmsprop_alpha,
            eps=config.rmsprop_epsilon,
            weight_decay=config.weight_decay,
            momentum=config.rmsprop_momentum,
        )
    adam: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw_8bit":
        from bitsandbytes.optim.adamw import AdamW8bit  # takes seconds

        return AdamW8bit(groups, **adam)
    # On the CPU, PyTorch's fused kernel does what DeepSpeedCPUAdam is for, without being compiled first.
    return torch.optim.AdamW(groups, **adam, fused=True if config.offload_optimizer != "none" else None)


def rate_groups(model: torch.nn.Module, adapter: MethodConfig) -> list[dict[str, Any]]:
    """The trained parameters, in groups of one learning rate: one group, if the method has no rates of its own."""
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(_rate_factor(name, adapter), []).append(parameter)
    return [{"params": parameters, RATE_FACTOR: factor} for factor, parameters in groups.items()]


def _rate_factor(name: str, adapter: MethodConfig) -> float:
    letters: tuple[Factor, ...] = ("A", "N", "B")
    return next((adapter.rate_factor(letter) for letter in letters if f".lora_{letter}." in name), 1.0)
