"""What a start does to a model: the size of every initial update, and the loss before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import StepFailed
from pipeline.stage import Workspace
from stages._adaptation.parallel import in_order
from stages._adaptation.probe import start_losses
from stages.adapters import algebra
from stages.adapters.base import AdapterConfig, Factors, WeightReader
from stages.adapters.blocks import row_blocks

if TYPE_CHECKING:
    from stages.init_adapter import Config


def matrix_reports(
    weights: Mapping[str, WeightReader], factors: Mapping[str, Factors], adapter: AdapterConfig, num_threads: int
) -> list[dict[str, Any]]:
    """The report of every matrix, in the order of `weights`; factors are asked for when their matrix is in work."""

    def report(module: str) -> dict[str, Any]:
        return matrix_report(module, weights[module], factors[module], adapter)

    return list(in_order(report, weights, num_threads))


def matrix_report(module: str, weight: WeightReader, factors: Factors, adapter: AdapterConfig) -> dict[str, Any]:
    """Sizes relative to ||W||: the initial update s B N A, and the error ||W - s B N A|| of taking it for W.

    Also the condition of the core: largest over smallest singular value, None where it is singular.
    """
    scaling = adapter.for_module(module).scaling
    right_RI, left_OR = algebra.folded(factors)
    weight_squared = error_squared = 0.0
    for rows, block_bI in row_blocks(weight):
        approximation_bI = scaling * left_OR[rows] @ right_RI
        weight_squared += _squared(block_bI)
        error_squared += _squared(block_bI - approximation_bI)
    norm = weight_squared**0.5
    update = algebra.update_norm(factors, scaling)
    return {
        "module": module,
        "shape": list(weight.shape),
        "rank": len(factors.A_RI),
        "weight_norm": norm,
        "update_norm": update,
        "relative_update": update / norm if norm else None,
        "relative_error": error_squared**0.5 / norm if norm else None,
        "core_condition": None if factors.N_RR is None else algebra.condition(factors.N_RR),
    }


def judge(config: Config, model_dir: Path, out: Workspace, matrices: list[dict[str, Any]]) -> dict[str, float]:
    """What the matrices' reports come to, and the loss on the probe texts before and after."""
    base, start = start_losses(model_dir, out.path, subtract=config.adapter.subtracts_start)
    updates = [matrix["relative_update"] or 0.0 for matrix in matrices]
    return {
        "relative_update_mean": sum(updates) / len(updates),
        "relative_update_max": max(updates),
        "relative_error_max": max(matrix["relative_error"] or 0.0 for matrix in matrices),
        "probe_loss_base": base,
        "probe_loss_start": start,
    }


def refuse_bad_start(config: Config, judged: Mapping[str, float]) -> None:
    """Raise StepFailed for a start that costs more than the recipe allows, naming the options that cure it."""
    assert isinstance(config.adapter, AdapterConfig)
    if config.accept_start:
        return
    base, start = judged["probe_loss_base"], judged["probe_loss_start"]
    if start - base <= config.max_start_loss_increase:
        return
    fields = type(config.adapter).model_fields
    cures = [
        "`residual: subtract` starts at the base model; " if "residual" in fields else "",
        "`scale: 0.1` makes the update a tenth of the weight; " if "scale" in fields else "",
    ]
    raise StepFailed(
        f"adapter: the start of {config.adapter.method} at rank {config.adapter.rank} raises the loss on the probe "
        f"texts from {base:.2f} to {start:.2f}, more than max_start_loss_increase = {config.max_start_loss_increase}; "
        f"the initial update is {judged['relative_update_max']:.2f} times the weight at most. "
        f"{''.join(cures)}a smaller alpha starts closer to it; `accept_start: true` goes on as it is"
    )


def _squared(block: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(block)) ** 2
