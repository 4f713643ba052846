"""Which matrices an adapter's `targets` mean. Standard library only, so that a preflight can use it.

A fused projection (qkv_proj, query_key_value, gate_up_proj, c_attn of gpt_bigcode) is one matrix here, as it is in the
model: it gets one adapter, whose factors the parts share.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stages._weights import refusals
from stages._weights.architecture import read_config
from stages._weights.index import stored_tensors
from stages.adapters.base import AdapterConfig, matches

ALL_LINEAR = "all-linear"


def matrices(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Module name -> (O, I) of every two-dimensional weight that is no embedding and no output head."""
    found = {}
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == 2 and not refusals.is_outside(module):
            found[module] = (shape[0], shape[1])
    return found


def select(modules: Iterable[str], targets: str | list[str]) -> tuple[list[str], list[str]]:
    """(the modules that `targets` name, one line for each target that matches nothing).

    A list entry matches a module of that name or whose name ends in ".entry"; a string other than `all-linear` is a
    regex of the whole name. These are PEFT's rules.
    """
    modules = list(modules)
    if targets == ALL_LINEAR:
        return modules, []
    if isinstance(targets, str):
        chosen = [module for module in modules if re.fullmatch(targets, module)]
        return chosen, [] if chosen else [_unmatched("targets", targets, modules)]
    chosen = [module for module in modules if any(_names(target, module) for target in targets)]
    missing = [target for target in targets if not any(_names(target, module) for module in modules)]
    return chosen, [_unmatched("targets", target, modules) for target in missing]


def problems(
    shapes: Mapping[str, tuple[int, ...]],
    adapter: AdapterConfig,
    dtypes: Mapping[str, str] | None = None,
    model_config: Mapping[str, Any] | None = None,
) -> list[str]:
    """What is wrong with an adapter's targets, patterns and ranks on a model with these tensors; one line each.

    Args:
        shapes: tensor name -> shape.
        adapter: the adapter's section of the recipe.
        dtypes: tensor name -> dtype as safetensors names it, where known.
        model_config: the content of the model's config.json, where known.
    """
    lines = _broken_patterns(adapter)
    if lines:
        return lines
    known = matrices(shapes)
    refused = refusals.reasons(shapes, dtypes or {}, model_config or {})
    # `all-linear` means linear layers; a name or a regex may mean anything, and is answered
    named = known if adapter.targets == ALL_LINEAR else [*known, *(module for module in refused if module not in known)]
    chosen, lines = select(named, adapter.targets)
    if not named:
        return ["adapter.targets: all-linear finds no linear layer: no float weight of two dimensions has a known name"]
    lines += refusals.lines({module: refused[module] for module in chosen if module in refused})
    usable = [module for module in chosen if module not in refused]
    return lines + _pattern_problems(adapter, usable) + _rank_problems(adapter, {name: known[name] for name in usable})


def folder_problems(model_dir: Path, adapter: AdapterConfig) -> list[str]:
    """The same for a model folder in the hub's layout."""
    stored = stored_tensors(model_dir)
    return problems(
        {name: tensor.shape for name, tensor in stored.items()},
        adapter,
        {name: tensor.dtype for name, tensor in stored.items()},
        read_config(model_dir),
    )


def short_names(modules: Iterable[str], chosen: list[str]) -> list[str]:
    """The last parts of the chosen names where these mean exactly the same modules, else the names themselves."""
    suffixes = sorted({name.rpartition(".")[2] for name in chosen})
    return suffixes if select(modules, suffixes)[0] == chosen else chosen


def _rank_problems(adapter: AdapterConfig, chosen: Mapping[str, tuple[int, int]]) -> list[str]:
    adapters = {module: adapter.for_module(module) for module in chosen}
    too_small = [module for module in chosen if min(chosen[module]) < adapters[module].num_directions]
    if not too_small:
        return []
    smallest = min(too_small, key=lambda module: min(chosen[module]))
    rank, num_directions = adapters[smallest].rank, adapters[smallest].num_directions
    return [
        f"adapter.rank: got {rank}, must be <= {min(chosen[smallest]) * rank // num_directions}: {smallest} is "
        f"{chosen[smallest][0]} x {chosen[smallest][1]} ({len(too_small)} of {len(chosen)} targets are too small)"
    ]


def _pattern_problems(adapter: AdapterConfig, chosen: list[str]) -> list[str]:
    """Keys of rank_pattern and alpha_pattern that no target answers to."""
    return [
        _unmatched(field, key, chosen, "target")
        for field in ("rank_pattern", "alpha_pattern")
        for key in getattr(adapter, field)
        if chosen and not any(matches(key, module) for module in chosen)
    ]


def _broken_patterns(adapter: AdapterConfig) -> list[str]:
    """Lines for what is no regex."""
    whole = [adapter.targets] if isinstance(adapter.targets, str) else []
    fields = {"targets": whole, "rank_pattern": adapter.rank_pattern, "alpha_pattern": adapter.alpha_pattern}
    lines = []
    for field, patterns in fields.items():
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                lines.append(f"adapter.{field}: {pattern!r} is not a regex: {error}")
    return lines


def _names(target: str, module: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _unmatched(field: str, target: str, modules: list[str], kind: str = "module") -> str:
    suffixes = sorted({module.rpartition(".")[2] for module in modules})
    near = difflib.get_close_matches(target, suffixes + modules, n=5, cutoff=0.5) or suffixes
    return f"adapter.{field}: {target!r} matches no {kind}; near names: {', '.join(near)}"
