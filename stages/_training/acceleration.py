"""Other ways to compute the same model: which attention, what is kept for the backward pass, compiled layers."""

from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.errors import UserError
from stages._training.availability import has_flash_attention
from stages.train import Config


def attention(config: Config, device: str) -> str | None:
    """The `attn_implementation` to load a model with; None is transformers' own choice: sdpa where the model has it."""
    if config.attention != "auto":
        return config.attention
    flash = device == "cuda" and config.dtype != "float32" and has_flash_attention()
    return "flash_attention_2" if flash else None


def prepare(base: Any, config: Config) -> None:
    """Change a base model in place, before an adapter wraps it. Raises UserError for one that cannot be so."""
    if config.liger:
        use_liger(base)
    if config.gradient_checkpointing:
        # The other form of recomputation needs an input with a gradient, which a frozen embedding does not give.
        base.gradient_checkpointing_enable({"use_reentrant": False})
    if config.compile:
        compile_layers(base)


def compile_layers(model: Any) -> None:
    """Compile each layer for itself: all are alike, so that one compilation serves them. Widths of batches may vary.

    Raises UserError for a model without such layers.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(f"train.compile: found no layers in {type(model).__name__} to compile; use false")
    for layer in layers:
        layer.compile(dynamic=True)


def use_liger(model: nn.Module) -> None:
    """Swap the modules of a known architecture. Raises UserError for an unknown one.

    Their losses stay out: each would compute all logits, or take the head's place, where `Objective` has its hook.
    """
    from liger_kernel.transformers import monkey_patch

    kind = model.config.model_type
    known = monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN
    if kind not in known:
        raise UserError(f"train.liger: found a {kind} model, expected one of {', '.join(sorted(known))}; use false")
    monkey_patch._apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)
