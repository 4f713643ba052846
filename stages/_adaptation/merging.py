"""Stream a base through its adapter into a merged model, one shard at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from pipeline import machine
from pipeline.errors import StepFailed
from pipeline.stage import Resources, Workspace
from stages._adaptation import full, verification
from stages._adaptation.probe import load_adapted, load_model
from stages._adaptation.quantization import probe_losses, read_quantization
from stages._adaptation.start import read_adapter
from stages._adaptation.whole_model import Verify, memory_problem
from stages._data.chat_files import write_chat_files
from stages._data.template import Template
from stages._peft.load import FactorsFile, load_factors
from stages._serving import probes
from stages._weights import refusals
from stages._weights.architecture import read_config
from stages._weights.folder import copy_small_files, state_dtype
from stages._weights.index import stored_tensors
from stages._weights.matrix import TORCH_DTYPE
from stages._weights.reading import read_tensor
from stages._weights.writing import ShardWriter
from stages.adapters.algebra import cast, folded, product
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

    def outputs(self, weight_OI: torch.Tensor, x_IP: torch.Tensor) -> torch.Tensor:
        """What the tensor after training, as a matrix, makes of some vectors [O, P]; for the check of the former."""


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
        return delta_OI if self.start is None else delta_OI.sub_(product(self.start, self.scaling, dtype))

    def applied(self, weight_OI: torch.Tensor) -> torch.Tensor:
        """The adapted weight, in the dtype of `weight_OI`."""
        adapted_OI = self.delta(weight_OI.dtype).add_(weight_OI)
        if self.trained.magnitude_O is None:
            return adapted_OI
        lengths_O = torch.linalg.vector_norm(adapted_OI, dim=1)
        return adapted_OI.mul_((self.trained.magnitude_O.to(weight_OI.dtype) / lengths_O)[:, None])

    def outputs(self, weight_OI: torch.Tensor, x_IP: torch.Tensor) -> torch.Tensor:
        """W x + s B N A x, less the start's, without forming the update; with DoRA there is no way around it."""
        if self.trained.magnitude_O is not None:
            return self.applied(weight_OI) @ x_IP
        outputs_OP = weight_OI @ x_IP + self._part(self.trained, x_IP)
        return outputs_OP if self.start is None else outputs_OP - self._part(self.start, x_IP)

    def _part(self, factors: Factors, x_IP: torch.Tensor) -> torch.Tensor:
        right_RI, left_OR = folded(cast(factors, x_IP.dtype))
        return self.scaling * (left_OR @ (right_RI @ x_IP))


class Updates(Mapping[str, Update]):
    """Module name -> its update. Each is read from the files when it is asked for, so that none is held."""

    def __init__(self, start: FactorsFile, trained: FactorsFile, adapter: AdapterConfig) -> None:
        self._start, self._trained, self._adapter = start, trained, adapter

    def __getitem__(self, module: str) -> Update:
        start = self._start[module] if self._adapter.subtracts_start else None
        return Update(self._trained[module], start, self._adapter.for_module(module).scaling)

    def __iter__(self) -> Iterator[str]:
        return iter(self._trained)

    def __len__(self) -> int:
        return len(self._trained)

    def problems(self, model_dir: Path) -> list[str]:
        """Why an update has no place in this base, one line for each reason."""
        stored = stored_tensors(model_dir)
        shapes = {name: tensor.shape for name, tensor in stored.items()}
        dtypes = {name: tensor.dtype for name, tensor in stored.items()}
        refused = refusals.reasons(shapes, dtypes, read_config(model_dir))
        lines = refusals.lines({module: refused[module] for module in self if module in refused})
        return lines + [
            f"{module} is {' x '.join(map(str, shapes[name]))}, its factors are of a matrix of "
            f"{' x '.join(map(str, self._trained.shape(module)))}"
            for module in self
            if (name := f"{module}.weight") in shapes and shapes[name] != self._trained.shape(module)
        ]


def merge(
    sources: Sources, dtype_name: str | None, out: Workspace, resources: Resources, verify: Verify = "answers"
) -> dict[str, Any]:
    """Write and verify the merged model, in the base's dtype unless one is named; the step's metrics.

    Raises StepFailed before anything is written where the answers are to be compared and memory is too small for that.
    """
    torch.set_num_threads(resources.num_threads or machine.cpu_count())
    model_dir, init_dir, trained_dir = sources
    if verify == "answers":
        _require_memory(model_dir)
    adapter = read_adapter(init_dir)
    changes = read_changes(sources, adapter)
    dtype = getattr(torch, dtype_name) if dtype_name else _base_dtype(model_dir)
    writer = write_merged(model_dir, changes, dtype, out)
    template = Template.load(trained_dir)
    template.save(out.path)
    write_chat_files(template, out.path)
    verification.account_for_tensors(model_dir, out.path, changes, dtype)
    layers = verification.layer_errors(model_dir, out.path, changes)
    answers = _answers(sources, adapter, out) if verify == "answers" else {}
    metrics = {
        "max_relative_error": max(layer["relative_error"] for layer in layers),
        "max_update_lost": max(layer["update_lost"] for layer in layers),
        **answers,
        "verified": verify,
        "dtype": _name(dtype),
        "num_parameters": writer.num_parameters,
        "bytes": writer.num_bytes,
    }
    (out / REPORT_FILE).write_text(json.dumps({**metrics, "layers": layers}, indent=1) + "\n")
    verification.require_agreement(metrics, dtype)
    return metrics


def _answers(sources: Sources, adapter: MethodConfig, out: Workspace) -> dict[str, Any]:
    """What trained and merged model say, compared; written down for the comparison with the served one."""
    answers, said = verification.compare_answers(lambda: load_trained(sources, adapter), out.path)
    probes.write(said, out.path)
    quantization = read_quantization(sources.trained_dir)
    if quantization:
        answers |= probe_losses(quantization, lambda dtype: load_trained(sources, adapter, dtype), out.path)
    return answers


def _require_memory(model_dir: Path) -> None:
    num_parameters = sum(tensor.num_elements for tensor in stored_tensors(model_dir).values())
    if line := memory_problem(num_parameters, machine.memory_available_bytes()):
        raise StepFailed(line)


def read_changes(sources: Sources, method: MethodConfig) -> Mapping[str, Change]:
    """Name of a tensor less ".weight" -> what becomes of it."""
    if isinstance(method, AdapterConfig):
        return read_updates(sources.model_dir, sources.init_dir, sources.trained_dir, method)
    return full.read_trained(sources.model_dir, sources.trained_dir)


def load_trained(sources: Sources, method: MethodConfig, dtype: torch.dtype = torch.float32) -> Any:
    """The model as it was trained, unmerged; an adapter with its base as it was, not quantised."""
    if not isinstance(method, AdapterConfig):
        return load_model(sources.trained_dir, dtype)
    start_dir = sources.init_dir if method.subtracts_start else None
    return load_adapted(sources.model_dir, sources.trained_dir, start_dir=start_dir, dtype=dtype)


def read_updates(model_dir: Path, init_dir: Path, trained_dir: Path, adapter: AdapterConfig) -> Updates:
    """Module name -> its update. Raises StepFailed if start and result are not of the same matrices, or those have no
    place in the base: an embedding, an output head (tied or not), another shape.
    """
    trained, start = load_factors(trained_dir), load_factors(init_dir)
    if {module: trained.shape(module) for module in trained} != {module: start.shape(module) for module in start}:
        raise StepFailed(f"merge: {trained_dir} and {init_dir} adapt different matrices; they are not of one training")
    updates = Updates(start, trained, adapter)
    if problems := updates.problems(model_dir):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise StepFailed(f"merge: {problems[0]}{more}; the adapter is not one of this base's linear layers")
    return updates


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
    for name, stored in names.items():  # a file is opened for each, as what was read of an open one stays in memory
        writer.add(name, _merged(read_tensor(stored.file, name), changes.get(name.removesuffix(".weight")), dtype))
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
