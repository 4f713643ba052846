"""Start the factors of every targeted matrix, write them, and judge the start."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline import machine
from pipeline.errors import StepFailed
from pipeline.stage import Resources, Workspace
from stages._adaptation import algebra
from stages._adaptation.probe import start_losses
from stages._peft.config import peft_config, write_config
from stages._peft.load import save_factors
from stages._weights import targets
from stages._weights.index import stored_tensors
from stages._weights.matrix import FileMatrix
from stages.adapters import initializer
from stages.adapters.base import AdapterConfig, Factors

if TYPE_CHECKING:
    from stages.init_adapter import Config

REPORT_FILE = "init_report.json"


def write_adapter(config: Config, model_dir: Path, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Write the adapter and init_report.json; the step's metrics. Raises StepFailed for a bad start."""
    torch.set_num_threads(resources.num_threads or machine.cpu_count())
    weights = targeted_weights(model_dir, config.adapter)
    began = time.perf_counter()
    factors = start_all(weights, config.adapter, config.seed, out)
    num_parameters = save_factors(factors, out.path)
    init_seconds = time.perf_counter() - began
    names = {name.removesuffix(".weight") for name in stored_tensors(model_dir)}
    write_config(peft_config(config.adapter, targets.short_names(sorted(names), sorted(weights))), out.path)
    summary = {
        "method": config.adapter.method,
        "rank": config.adapter.rank,
        "num_matrices": len(weights),
        "num_parameters": num_parameters,
        "trainable_parameters": sum(config.adapter.num_trainable(*weight.shape) for weight in weights.values()),
        "init_seconds": init_seconds,
        "bytes_read": sum(weight.bytes_read for weight in weights.values()),
    }
    report = {**summary, "scale": config.adapter.scale, "subtracts_start": config.adapter.subtracts_start}
    matrices = [_matrix_report(name, weights[name], factors[name], config) for name in weights]
    judged = _judge(config, model_dir, out, matrices)
    (out / REPORT_FILE).write_text(json.dumps({**report, **judged, "matrices": matrices}, indent=1) + "\n")
    _refuse_bad_start(config, judged)
    return {**summary, **judged}


def targeted_weights(model_dir: Path, adapter: AdapterConfig) -> dict[str, FileMatrix]:
    """Module name -> reader of its weight, for every module that the adapter targets."""
    stored = stored_tensors(model_dir)
    known = targets.matrices({name: tensor.shape for name, tensor in stored.items()})
    chosen, _ = targets.select(known, adapter.targets)
    return {module: FileMatrix(stored[f"{module}.weight"]) for module in chosen}


def start_all(
    weights: Mapping[str, FileMatrix], adapter: AdapterConfig, seed: int, out: Workspace
) -> dict[str, Factors]:
    """The factors of every matrix. Each has a generator of its own, so that neither order nor selection matters."""
    init = initializer(adapter)
    factors = {}
    for number, (module, weight) in enumerate(weights.items()):
        factors[module] = init(weight, adapter, generator_for(module, seed))
        out.progress(number + 1, len(weights))
    return factors


def generator_for(module: str, seed: int) -> torch.Generator:
    """A CPU generator whose stream depends on the seed and the module's name alone."""
    digest = hashlib.sha256(f"{seed}:{module}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _matrix_report(module: str, weight: FileMatrix, factors: Factors, config: Config) -> dict[str, Any]:
    norm = weight.squared_norm() ** 0.5 if config.probe else None
    update = algebra.update_norm(factors, config.adapter.scale)
    return {
        "module": module,
        "shape": list(weight.shape),
        "update_norm": update,
        "weight_norm": norm,
        "relative_update": update / norm if norm else None,
        "core_condition": None if factors.N_RR is None else algebra.condition(factors.N_RR),
    }


def _judge(config: Config, model_dir: Path, out: Workspace, matrices: list[dict[str, Any]]) -> dict[str, Any]:
    if not config.probe:
        return {}
    updates = [matrix["relative_update"] or 0.0 for matrix in matrices]
    base, start = start_losses(model_dir, out.path, subtract=config.adapter.subtracts_start)
    return {
        "relative_update_mean": sum(updates) / len(updates),
        "relative_update_max": max(updates),
        "probe_loss_base": base,
        "probe_loss_start": start,
    }


def _refuse_bad_start(config: Config, judged: Mapping[str, Any]) -> None:
    if config.accept_start or not judged:
        return
    base, start = judged["probe_loss_base"], judged["probe_loss_start"]
    if start - base <= config.max_start_loss_increase:
        return
    subtractable = "residual" in type(config.adapter).model_fields
    cure = "`residual: subtract` starts at the base model; " if subtractable else ""
    raise StepFailed(
        f"adapter: the start of {config.adapter.method} at rank {config.adapter.rank} raises the loss on the probe "
        f"texts from {base:.2f} to {start:.2f}, more than max_start_loss_increase = {config.max_start_loss_increase}; "
        f"the initial update is {judged['relative_update_max']:.2f} times the weight at most. "
        f"{cure}a smaller alpha starts closer to it; `accept_start: true` goes on as it is"
    )
