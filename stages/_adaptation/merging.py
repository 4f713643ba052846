"""Stream a base through its adapter into a merged model, one shard at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import safe_open

from pipeline import machine
from pipeline.errors import StepFailed
from pipeline.stage import Resources, Workspace
from stages._adaptation import full, verification
from stages._adaptation.probe import load_adapted, load_model
from stages._adaptation.quantization import probe_losses, read_quantization
from stages._adaptation.start import read_adapter
from stages._data.chat_files import write_chat_files
from stages._data.template import Template
from stages._peft.load import load_factors
from stages._weights.folder import copy_small_files, state_dtype
from stages._weights.index import shard_files, stored_tensors
from stages._weights.matrix import TORCH_DTYPE
from stages._weights.writing import ShardWriter
from stages.adapters.algebra import product
from stages.adapters.base import AdapterConfig, Factors, MethodConfig

REPORT_FILE = "merge_report.json"


class Sources(NamedTuple):
    """The folders of the base, of the adapter's start and of the trained adapter."""

    model_dir: Path
    init_dir: Path
    trained_dir: Path


class Change(Protocol):
    """What becomes of one tensor."""

    def applied(self, weight: torch.Tensor) -> torch.Tensor:
        """The tensor after training, in the dtype of `weight`, that before it."""


class Update(NamedTuple):
    """A change by an adapter: W + s B N A of the trained factors, less that of the start where it was subtracted;
    with DoRA each row then gets its trained length.
    """

    trained: Factors
    start: Factors | None
    scaling: float

    def delta(self, dtype: torch.dtype) -> torch.Tensor:
        """What is added to W, before any rescaling [O, I], multiplied in `dtype`."""
        delta_OI = product(self.trained, self.scaling, dtype)
        return delta_OI if self.start is None else delta_OI - product(self.start, self.scaling, dtype)

    def applied(self, weight_OI: torch.Tensor) -> torch.Tensor:
        """The adapted weight, in the dtype of `weight_OI`."""
        adapted_OI = weight_OI + self.delta(weight_OI.dtype)
        if self.trained.magnitude_O is None:
            return adapted_OI
        lengths_O = torch.linalg.vector_norm(adapted_OI, dim=1)
        return adapted_OI * (self.trained.magnitude_O.to(weight_OI.dtype) / lengths_O)[:, None]


def merge(sources: Sources, dtype_name: str | None, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Write and verify the merged model, in the base's dtype unless one is named; the step's metrics."""
    torch.set_num_threads(resources.num_threads or machine.cpu_count())
    model_dir, init_dir, trained_dir = sources
    adapter = read_adapter(init_dir)
    changes = read_changes(sources, adapter)
    dtype = getattr(torch, dtype_name) if dtype_name else _base_dtype(model_dir)
    writer = write_merged(model_dir, changes, dtype, out)
    template = Template.load(trained_dir)
    template.save(out.path)
    write_chat_files(template, out.path)
    layers = verification.layer_errors(model_dir, out.path, changes)
    answers = verification.compare_answers(lambda: load_trained(sources, adapter), out.path)
    quantization = read_quantization(trained_dir)
    if quantization:
        answers |= probe_losses(quantization, lambda dtype: load_trained(sources, adapter, dtype), out.path)
    metrics = {
        "max_relative_error": max(layer["relative_error"] for layer in layers),
        "max_update_lost": max(layer["update_lost"] for layer in layers),
        **answers,
        "dtype": _name(dtype),
        "num_parameters": writer.num_parameters,
        "bytes": writer.num_bytes,
    }
    (out / REPORT_FILE).write_text(json.dumps({**metrics, "layers": layers}, indent=1) + "\n")
    verification.require_agreement(metrics, dtype)
    return metrics


def read_changes(sources: Sources, method: MethodConfig) -> Mapping[str, Change]:
    """Name of a tensor less ".weight" -> what becomes of it."""
    if isinstance(method, AdapterConfig):
        return read_updates(sources.init_dir, sources.trained_dir, method)
    return full.read_trained(sources.model_dir, sources.trained_dir)


def load_trained(sources: Sources, method: MethodConfig, dtype: torch.dtype = torch.float32) -> Any:
    """The model as it was trained, unmerged; an adapter with its base as it was, not quantised."""
    if not isinstance(method, AdapterConfig):
        return load_model(sources.trained_dir, dtype)
    start_dir = sources.init_dir if method.subtracts_start else None
    return load_adapted(sources.model_dir, sources.trained_dir, start_dir=start_dir, dtype=dtype)


def read_updates(init_dir: Path, trained_dir: Path, adapter: AdapterConfig) -> dict[str, Update]:
    """Module name -> its update. Raises StepFailed if start and result are not of the same matrices."""
    trained, start = load_factors(trained_dir), load_factors(init_dir)
    if trained.keys() != start.keys():
        raise StepFailed(f"merge: {trained_dir} and {init_dir} adapt different matrices; they are not of one training")
    return {
        module: Update(
            trained[module],
            start[module] if adapter.subtracts_start else None,
            adapter.for_module(module).scaling,
        )
        for module in trained
    }


def write_merged(model_dir: Path, changes: Mapping[str, Change], dtype: torch.dtype, out: Workspace) -> ShardWriter:
    """Write every tensor of the base, changed where there is a change for it: in float32, rounded once to `dtype`.

    Raises StepFailed for a change whose tensor the base does not have.
    """
    names = stored_tensors(model_dir)
    homeless = sorted(changes.keys() - {name.removesuffix(".weight") for name in names})
    if homeless:
        raise StepFailed(
            f"merge: the base has no weight for {', '.join(homeless[:5])}; the adapter is of another model"
        )
    copy_small_files(model_dir, out.path)
    state_dtype(out.path, _name(dtype))
    writer = ShardWriter(out.path)
    for shard in shard_files(model_dir):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                change = changes.get(name.removesuffix(".weight"))
                writer.add(name, _merged(file.get_tensor(name), change, dtype))
                out.progress(writer.num_tensors, len(names))
    writer.close()
    return writer


def _merged(weight: torch.Tensor, change: Change | None, dtype: torch.dtype) -> torch.Tensor:
    if change is not None:
        precision = torch.promote_types(weight.dtype, torch.float32)
        weight = change.applied(weight.to(precision))
    return weight.to(dtype) if weight.is_floating_point() else weight


def _base_dtype(model_dir: Path) -> torch.dtype:
    """The dtype that most of the base's numbers are stored in."""
    sizes: dict[str, int] = {}
    for tensor in stored_tensors(model_dir).values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.num_elements
    return TORCH_DTYPE[max(sizes, key=lambda dtype: sizes[dtype])]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
