"""Why an adapter cannot go on a weight that its targets name. Standard library only."""

import re
from collections.abc import Mapping
from typing import Any

_EMBEDDINGS = {"embed_tokens", "wte", "wpe", "word_embeddings", "position_embeddings", "token_type_embeddings"}
_HEADS = {"shared", "lm_head", "embed_out", "score", "classifier"}
_FLOATS = {"F64", "F32", "BF16", "F16"}
_PACKED = {"qweight", "weight_packed"}
"""What GPTQ, AWQ and compressed-tensors call a quantised weight."""
_EXPERT = re.compile(r"(^|\.)experts\.\d+\.")
_CONV1D_MODELS = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp"}
_CONV1D_LAYERS = {"c_attn", "q_attn", "c_fc", "c_proj"}
"""Where transformers has its own `Conv1D` (transformers.pytorch_utils), and the names it has there."""


def is_outside(module: str) -> bool:
    """Whether a module is an embedding or an output head by its name: not among a model's linear layers."""
    return _last(module) in _EMBEDDINGS | _HEADS


def reasons(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str], model_config: Mapping[str, Any]
) -> dict[str, str]:
    """Module name -> what it is, for every weight that a target may name and that no adapter can go on."""
    transposed = model_config.get("model_type") in _CONV1D_MODELS
    found = {}
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        if len(shape) > 2 and kind != "weight":  # a parameter of its own, as fused experts are
            module, kind = name, "weight"
        reason = _reason(module, kind, shape, dtypes.get(name), transposed)
        if reason:
            found[module] = reason
    if "lm_head.weight" not in shapes and any(_last(module) in {"embed_tokens", "wte"} for module in found):
        found["lm_head"] = "the embedding itself (tied, tie_word_embeddings), expected a linear layer"
    return found


def lines(refused: Mapping[str, str]) -> list[str]:
    """One line for each reason, naming the first module that it is true of."""
    by_reason: dict[str, list[str]] = {}
    for module, reason in refused.items():
        by_reason.setdefault(reason, []).append(module)
    return [
        f"adapter.targets: {modules[0]}{f' (one of {len(modules)})' if len(modules) > 1 else ''} is {reason}"
        for reason, modules in by_reason.items()
    ]


def _reason(module: str, kind: str, shape: tuple[int, ...], dtype: str | None, transposed: bool) -> str | None:
    if kind in _PACKED:
        return f"quantised (found {kind}), expected float weights; start from the unquantised model"
    if kind != "weight":
        return None
    if _last(module) in _EMBEDDINGS:
        return "an embedding, expected a linear layer; `all-linear` leaves embeddings out"
    if _last(module) in _HEADS:
        return "the output head, expected a linear layer below it; `all-linear` leaves the head out"
    if len(shape) > 2:
        size = " x ".join(map(str, shape))
        return f"{size}, expected a matrix; name others (fused experts of a mixture cannot have an adapter)"
    if _EXPERT.search(module):
        return (
            "one expert of a mixture, which transformers fuses with the others; name layers that all tokens go through"
        )
    if len(shape) == 2 and dtype not in _FLOATS | {None}:
        return f"stored as {dtype}, expected float weights; start from the unquantised model"
    if transposed and _last(module) in _CONV1D_LAYERS:
        return "a Conv1D of transformers, stored in x out, expected a linear layer; use a model of linear layers"
    return None


def _last(module: str) -> str:
    return module.rpartition(".")[2]
