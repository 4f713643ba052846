"""Which matrices an adapter's `targets` mean. Standard library only, so that a preflight can use it."""

import difflib
import re
from collections.abc import Iterable, Mapping

from stages.adapters.base import AdapterConfig

ALL_LINEAR = "all-linear"
_EMBEDDINGS = {"embed_tokens", "wte", "wpe", "word_embeddings", "position_embeddings", "token_type_embeddings"}
_HEADS = {"shared", "lm_head", "embed_out", "score", "classifier"}


def matrices(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Module name -> (O, I) of every two-dimensional weight that is no embedding and no output head."""
    found = {}
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == 2 and module.rpartition(".")[2] not in _EMBEDDINGS | _HEADS:
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
        return chosen, [] if chosen else [_unmatched(targets, modules)]
    chosen = [module for module in modules if any(_names(target, module) for target in targets)]
    return chosen, [_unmatched(t, modules) for t in targets if not any(_names(t, module) for module in modules)]


def problems(shapes: Mapping[str, tuple[int, ...]], adapter: AdapterConfig) -> list[str]:
    """What is wrong with an adapter's targets and ranks on a model with these tensors; one line each."""
    known = matrices(shapes)
    chosen, lines = select(known, adapter.targets)
    adapters = {module: adapter.for_module(module) for module in chosen}
    too_small = [module for module in chosen if min(known[module]) < adapters[module].num_directions]
    if too_small:
        smallest = min(too_small, key=lambda module: min(known[module]))
        rank, num_directions = adapters[smallest].rank, adapters[smallest].num_directions
        lines.append(
            f"adapter.rank: got {rank}, must be <= {min(known[smallest]) * rank // num_directions}: {smallest} is "
            f"{known[smallest][0]} x {known[smallest][1]} ({len(too_small)} of {len(chosen)} targets are too small)"
        )
    return lines


def short_names(modules: Iterable[str], chosen: list[str]) -> list[str]:
    """The last parts of the chosen names where these mean exactly the same modules, else the names themselves."""
    suffixes = sorted({name.rpartition(".")[2] for name in chosen})
    return suffixes if select(modules, suffixes)[0] == chosen else chosen


def _names(target: str, module: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _unmatched(target: str, modules: list[str]) -> str:
    suffixes = sorted({module.rpartition(".")[2] for module in modules})
    near = difflib.get_close_matches(target, suffixes + modules, n=5, cutoff=0.5) or suffixes
    return f"adapter.targets: {target!r} matches no module; near names: {', '.join(near)}"
