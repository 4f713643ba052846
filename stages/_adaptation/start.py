"""Start the factors of every targeted matrix and write them as a PEFT adapter."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter

from pipeline import machine
from pipeline.stage import Resources, Workspace
from stages._adaptation import start_report
from stages._peft.config import peft_config, task_type_of, write_config
from stages._peft.load import save_factors
from stages._weights import targets
from stages._weights.index import stored_tensors
from stages._weights.matrix import FileMatrix
from stages.adapters import AnyAdapter, initializer
from stages.adapters.base import AdapterConfig, Factors, MethodConfig, WeightReader, total_trainable

if TYPE_CHECKING:
    from stages.init_adapter import Config

ADAPTER_FILE = "adapter.json"
"""The adapter's section of the recipe: rank, scale and method of what lies beside it."""


def write_adapter(config: Config, model_dir: Path, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Write the adapter, adapter.json and init_report.json; the step's metrics. Raises StepFailed for a bad start."""
    adapter = config.adapter
    assert isinstance(adapter, AdapterConfig)
    torch.set_num_threads(resources.num_threads or machine.cpu_count())
    weights = targeted_weights(model_dir, adapter)
    began = time.perf_counter()
    factors = start_all(weights, adapter, config.seed, out)
    num_parameters = save_factors(factors, out.path)
    init_seconds = time.perf_counter() - began
    write_description(adapter, model_dir, sorted(weights), out.path)
    shapes = {module: weight.shape for module, weight in weights.items()}
    summary = {
        "method": adapter.method,
        "rank": adapter.rank,
        "num_matrices": len(weights),
        "num_parameters": num_parameters,
        "trainable_parameters": total_trainable(adapter, shapes, shapes),
        "subtracts_start": adapter.subtracts_start,
        "init_seconds": init_seconds,
        "bytes_read": sum(weight.bytes_read for weight in weights.values()),
    }
    if not config.probe:
        start_report.write_report(out, summary)
        return summary
    matrices = [start_report.matrix_report(name, weights[name], factors[name], adapter) for name in weights]
    judged = start_report.judge(config, model_dir, out, matrices)
    start_report.write_report(out, {**summary, **judged, "matrices": matrices})
    start_report.refuse_bad_start(config, judged)
    return {**summary, **judged}


def write_description(adapter: AdapterConfig, model_dir: Path, modules: list[str], out_dir: Path) -> None:
    """Write adapter_config.json, for PEFT, and adapter.json, for us."""
    names = sorted(name.removesuffix(".weight") for name in stored_tensors(model_dir))
    write_config(peft_config(adapter, targets.short_names(names, modules), task_type_of(model_dir)), out_dir)
    (out_dir / ADAPTER_FILE).write_text(json.dumps(adapter.model_dump(mode="json"), indent=1) + "\n")


def read_adapter(init_dir: Path) -> MethodConfig:
    """The adapter's section of the recipe that a start was made from."""
    return TypeAdapter[MethodConfig](AnyAdapter).validate_json((init_dir / ADAPTER_FILE).read_text())


def targeted_weights(model_dir: Path, adapter: AdapterConfig) -> dict[str, FileMatrix]:
    """Module name -> reader of its weight, for every module that the adapter targets."""
    stored = stored_tensors(model_dir)
    known = targets.matrices({name: tensor.shape for name, tensor in stored.items()})
    chosen, _ = targets.select(known, adapter.targets)
    return {module: FileMatrix(stored[f"{module}.weight"]) for module in chosen}


def start_all(
    weights: Mapping[str, FileMatrix], adapter: AdapterConfig, seed: int, out: Workspace
) -> dict[str, Factors]:
    """The factors of every matrix."""
    factors = {}
    for number, (module, weight) in enumerate(weights.items()):
        factors[module] = start_one(module, weight, adapter, seed)
        out.progress(number + 1, len(weights))
    return factors


def start_one(module: str, weight: WeightReader, adapter: AdapterConfig, seed: int) -> Factors:
    """One matrix's factors. It has a generator of its own, so that neither order nor selection matters."""
    return initializer(adapter)(weight, adapter.for_module(module), generator_for(module, seed))


def generator_for(module: str, seed: int) -> torch.Generator:
    """A CPU generator whose stream depends on the seed and the module's name alone."""
    digest = hashlib.sha256(f"{seed}:{module}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
