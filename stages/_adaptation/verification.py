"""Does the merged model on disk do what base and adapter do together?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from pipeline.errors import StepFailed
from stages._adaptation.probe import load_model, probe_tokens
from stages._serving.probes import Probe
from stages._weights.index import StoredTensor, stored_tensors
from stages._weights.matrix import TORCH_DTYPE
from stages._weights.reading import read_tensor

if TYPE_CHECKING:
    from stages._adaptation.merging import Change

NUM_PROBES = 4
"""Random vectors per matrix: an error anywhere in it shows in each of them."""
PROMPT_TOKENS, NEW_TOKENS = 24, 16

MAX_RELATIVE_ERROR = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Of a layer's output. Rounding a weight to bfloat16 moves it by up to 2^-9 of itself."""
MAX_LOGIT_ERROR = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}
"""Of the largest logit: rounding errors of all layers add up in it."""


class Answers(NamedTuple):
    """What a model says to the probe texts."""

    logits: list[torch.Tensor]
    """of the first PROMPT_TOKENS tokens of each text, [T, V] float32"""
    tokens: list[list[int]]
    """the NEW_TOKENS that it would say next"""
    logprobs: list[list[float]]
    """of each such token, in nats"""
    gaps: list[list[float]]
    """of each such token's logit above the second largest; 0 where it is not the largest (but the largest allowed)"""


def account_for_tensors(base_dir: Path, merged_dir: Path, changes: Mapping[str, Change], dtype: torch.dtype) -> None:
    """Raises StepFailed unless the merged model has exactly the base's tensors in their shapes, floats in `dtype`, and
    those without a change are the base's.
    """
    base, merged = stored_tensors(base_dir), stored_tensors(merged_dir)
    if base.keys() != merged.keys():
        differing = sorted(base.keys() ^ merged.keys())
        raise StepFailed(f"merge: the merged model's tensors differ from the base's: {', '.join(differing[:5])}")
    for name, tensor in base.items():
        kind = dtype if tensor.dtype.startswith(("F", "BF")) else tensor.dtype
        found, expected = _form(merged[name]), f"{kind} {tensor.shape}"
        if found != expected:
            raise StepFailed(f"merge: found {name} as {found}, expected {expected} as in the base")
        if name.removesuffix(".weight") not in changes and not _same(name, tensor.file, merged[name].file):
            raise StepFailed(f"merge: {name} has no update, and yet it is not the base's")


def layer_errors(base_dir: Path, merged_dir: Path, changes: Mapping[str, Change]) -> list[dict[str, Any]]:
    """For every changed tensor on disk: the relative error of its output on random vectors against W x + s B N A x (or
    the trained W's output) in float64, and the size of that error relative to the change's own part (what rounding to
    a short dtype took of the change).
    """
    base, merged = stored_tensors(base_dir), stored_tensors(merged_dir)
    return [
        _layer_error(name, base[name].file, merged[name].file, change)
        for name in base
        if (change := changes.get(name.removesuffix(".weight"))) is not None
    ]


def compare_answers(load_trained: Callable[[], Any], merged_dir: Path) -> tuple[dict[str, float], list[Probe]]:
    """Logits and greedy continuations of trained and merged model on the probe texts, both computed in float32; and
    those of the merged model, for whoever serves it.

    `load_trained` is called once, so that only one model is in memory at a time.
    """
    prompts = [ids[:PROMPT_TOKENS] for ids in probe_tokens(merged_dir)]
    adapted = _answers(load_trained(), prompts)
    merged = _answers(load_model(merged_dir, torch.float32), prompts)
    largest = max(float(logits.abs().max()) for logits in adapted.logits)
    errors = [float((a - b).abs().max()) for a, b in zip(adapted.logits, merged.logits, strict=True)]
    metrics = {
        "probe_logit_error": max(errors) / largest,
        "greedy_token_agreement": _agreement(adapted.tokens, merged.tokens),
    }
    said = zip(prompts, merged.tokens, merged.logprobs, merged.gaps, strict=True)
    return metrics, [
        Probe(prompt_ids=tuple(ids.tolist()), token_ids=tuple(tokens), logprobs=tuple(logprobs), gaps=tuple(gaps))
        for ids, tokens, logprobs, gaps in said
    ]


def require_agreement(metrics: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Raises StepFailed when an error is larger than rounding explains."""
    limits = {"max_relative_error": MAX_RELATIVE_ERROR[dtype], "probe_logit_error": MAX_LOGIT_ERROR[dtype]}
    for name, limit in limits.items():
        if name in metrics and not metrics[name] <= limit:
            raise StepFailed(
                f"merge: {name} is {metrics[name]:.3g}, expected at most {limit:g} in {metrics['dtype']}: the merged "
                f"model is not what was trained (merge_report.json has every layer)"
            )


def _layer_error(name: str, base_file: Path, merged_file: Path, change: Change) -> dict[str, Any]:
    base_OI = _as_matrix(read_tensor(base_file, name).double())
    generator = torch.Generator().manual_seed(0)
    x_IP = torch.randn(base_OI.shape[1], NUM_PROBES, generator=generator, dtype=torch.float64)
    base_OP, expected_OP = base_OI @ x_IP, change.outputs(base_OI, x_IP)
    del base_OI  # so that there is one matrix in float64 at a time
    merged_OP = _as_matrix(read_tensor(merged_file, name).double()) @ x_IP
    error = float((merged_OP - expected_OP).norm())
    size, update_size = float(expected_OP.norm()), float((expected_OP - base_OP).norm())
    return {
        "module": name.removesuffix(".weight"),
        "relative_error": error / size if size else error,
        "update_lost": error / update_size if update_size else 0.0,
    }


def _as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """[O, I] of a tensor [O, ...]; a vector has one column."""
    return tensor.reshape(len(tensor), -1)


def _form(tensor: StoredTensor) -> str:
    return f"{TORCH_DTYPE.get(tensor.dtype, tensor.dtype)} {tensor.shape}"


def _same(name: str, base_file: Path, merged_file: Path) -> bool:
    """Whether a tensor is the base's, rounded to the merged dtype."""
    kept = read_tensor(merged_file, name)
    return bool(torch.equal(read_tensor(base_file, name).to(kept.dtype), kept))


@torch.no_grad()
def _answers(model: Any, prompts: list[torch.Tensor]) -> Answers:
    logits = [model(input_ids=ids[None]).logits[0].float() for ids in prompts]
    settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    settings |= {"return_dict_in_generate": True, "output_logits": True}
    said = [
        model.generate(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], **settings) for ids in prompts
    ]
    tokens = [each.sequences[0, len(ids) :].tolist() for each, ids in zip(said, prompts, strict=True)]
    raw = [[scores_1V[0].float() for scores_1V in each.logits] for each in said]
    pairs = [list(zip(logits, chosen, strict=True)) for logits, chosen in zip(raw, tokens, strict=True)]
    logprobs = [[float(logits_V.log_softmax(-1)[token]) for logits_V, token in each] for each in pairs]
    return Answers(logits, tokens, logprobs, [[_gap(logits_V, token) for logits_V, token in each] for each in pairs])


def _gap(logits_V: torch.Tensor, token: int) -> float:
    largest, places = logits_V.topk(2)
    return float(largest[0] - largest[1]) if int(places[0]) == token else 0.0


def _agreement(first: list[list[int]], second: list[list[int]]) -> float:
    """The share of continuation tokens that are equal."""
    pairs = [pair for a, b in zip(first, second, strict=True) for pair in zip(a, b, strict=True)]
    return sum(a == b for a, b in pairs) / len(pairs)
