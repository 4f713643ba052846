"""Start the factors of every targeted matrix and write them as a PEFT adapter."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter

from pipeline import machine
from pipeline.stage import Resources, Workspace
from stages._adaptation import start_report
from stages._adaptation.files import ADAPTER_FILE, write_method, write_report
from stages._adaptation.parallel import in_order, one_thread
from stages._peft.config import peft_config, task_type_of, write_config
from stages._peft.load import load_factors, stream_factors
from stages._weights import targets
from stages._weights.index import stored_tensors
from stages._weights.matrix import FileMatrix
from stages.adapters import AnyAdapter, initializer
from stages.adapters.base import AdapterConfig, Factors, MethodConfig, WeightReader, total_trainable

if TYPE_CHECKING:
    from stages.init_adapter import Config


def write_adapter(
    config: Config,
    model_dir: Path,
    out: Workspace,
    resources: Resources,
    readers: Mapping[str, FileMatrix] | None = None,
) -> dict[str, Any]:
    """Write the adapter, adapter.json and init_report.json; the step's metrics. Raises StepFailed for a bad start.

    `readers` are those of all targeted weights, where a method asks for more than `targeted_weights` gives.
    """
    adapter = config.adapter
    assert isinstance(adapter, AdapterConfig)
    num_threads = resources.num_threads or machine.cpu_count()
    torch.set_num_threads(num_threads)
    weights = readers or targeted_weights(model_dir, adapter)
    began = time.perf_counter()
    started = start_all(weights, adapter, config.seed, num_threads)
    num_parameters = stream_factors(_reported(started, len(weights), out), weights, out.path)
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
        write_report(summary, out.path)
        return summary
    matrices = start_report.matrix_reports(weights, load_factors(out.path), adapter, num_threads)
    judged = start_report.judge(config, model_dir, out, matrices)
    write_report({**summary, **judged, "matrices": matrices}, out.path)
    start_report.refuse_bad_start(config, judged)
    return {**summary, **judged}


def write_description(adapter: AdapterConfig, model_dir: Path, modules: list[str], out_dir: Path) -> None:
    """Write adapter_config.json, for PEFT, and adapter.json, for us."""
    names = sorted(name.removesuffix(".weight") for name in stored_tensors(model_dir))
    write_config(peft_config(adapter, targets.short_names(names, modules), task_type_of(model_dir)), out_dir)
    write_method(adapter, out_dir)


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
    weights: Mapping[str, WeightReader], adapter: AdapterConfig, seed: int, num_threads: int
) -> Iterator[tuple[str, Factors]]:
    """Module name and factors of every matrix, in the order of `weights`; `num_threads` are in work at a time."""
    return in_order(lambda module: (module, start_one(module, weights[module], adapter, seed)), weights, num_threads)


def start_one(module: str, weight: WeightReader, adapter: AdapterConfig, seed: int) -> Factors:
    """One matrix's factors: a function of the weight, the module's name, the options and the seed alone. It has a
    generator and a thread of its own, so that neither order nor selection nor the number of cores matters.
    """
    with one_thread():
        return initializer(adapter)(weight, adapter.for_module(module), generator_for(module, seed))


def generator_for(module: str, seed: int) -> torch.Generator:
    """A CPU generator whose stream depends on the seed and the module's name alone."""
    digest = hashlib.sha256(f"{seed}:{module}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _reported(started: Iterable[tuple[str, Factors]], total: int, out: Workspace) -> Iterator[tuple[str, Factors]]:
    """The same, telling the user how far it is."""
    for number, pair in enumerate(started, start=1):
        yield pair
        out.progress(number, total)
