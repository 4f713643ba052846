"""Start an adapter on a model in memory, whole or divided by DeepSpeed's ZeRO stage 3.

For training scripts of one's own, with transformers' Trainer or DeepSpeed alone, between `get_peft_model` and
`deepspeed.initialize`:

    model = get_peft_model(base, peft_config(adapter, ["q_proj", "v_proj"]))
    start_in_process(model, adapter, seed=0)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import dropwhile

import torch
from peft import PeftModel
from peft.tuners.lora import Linear

from pipeline.errors import UserError
from stages._adaptation.start import start_one
from stages._peft.config import peft_config
from stages._peft.load import adapted_layers, named, subtract_update
from stages._weights.matrix import TORCH_DTYPE, TensorMatrix
from stages._weights.partitioned import is_partitioned, processes_of, reader
from stages.adapters.base import AdapterConfig, Factors, WeightReader


@torch.no_grad()
def start_in_process(model: PeftModel, adapter: AdapterConfig, seed: int = 0) -> int:
    """Give the active adapter of `model` the factors that the init stage would write for these weights, bit for bit,
    and reduce the base where the method subtracts its start. All processes of the training call it.

    While a method asks for rows and columns only, every process reads just these and computes the same. From the first
    matrix that it asks for as a whole, matrices are dealt out: each goes to one process, which starts it for all.

    Args:
        model: with LoRA layers in the form of `stages._peft.config.peft_config(adapter, ...)`; base weights float.
        adapter: the method and its options; its targets are not looked at, the model's layers are what is adapted.
        seed: with a module's name it decides all random numbers.

    Returns:
        The bytes of weights that this process was sent by others.

    Raises:
        UserError: for an adapter of another form, quantised weights, or a method that needs gradients.
    """
    layers = dict(adapted_layers(model))
    _require_startable(model, layers, adapter)
    start = _Start(model, layers, adapter, seed)
    start.deal(list(dropwhile(start.from_slices, layers)))
    if adapter.subtracts_start:
        subtract_update(model)
    return sum(getattr(weight, "bytes_received", 0) for weight in start.readers.values())


class _Start:
    """One start of all layers, by name."""

    def __init__(self, model: PeftModel, layers: dict[str, Linear], adapter: AdapterConfig, seed: int) -> None:
        weights = {module: layer.get_base_layer().weight for module, layer in layers.items()}
        self.readers = {module: reader(weight) for module, weight in weights.items()}
        self.processes = processes_of(next(iter(weights.values())))
        self.parameters = _Parameters(model)
        self.adapter = adapter
        self.seed = seed

    def from_slices(self, module: str) -> bool:
        """Start a layer at every process; False if its method asks for the whole weight, which all find at once."""
        try:
            self._fill(module, _Slices(self.readers[module]))
        except _WholeNeeded:
            return False
        return True

    def deal(self, modules: Sequence[str]) -> None:
        """In rounds: one matrix to each process, all start theirs at the same time, then everyone gets all factors."""
        for first in range(0, len(modules), self.processes.size):
            dealt = modules[first : first + self.processes.size]
            hands = [self._whole(module, owner) for owner, module in enumerate(dealt)]
            for module, matrix in zip(dealt, hands, strict=True):
                if matrix is not None:
                    self._fill(module, matrix)
            for owner, module in enumerate(dealt):
                for parameter in self.parameters.of(module).values():
                    self.processes.broadcast(parameter.data, owner)

    def _whole(self, module: str, owner: int) -> TensorMatrix | None:
        """The matrix in the owner's memory."""
        weight = self.readers[module]
        if isinstance(weight, TensorMatrix):
            return weight if owner == self.processes.rank else None
        matrix_OI = weight.at(owner)
        return None if matrix_OI is None else TensorMatrix(matrix_OI)

    def _fill(self, module: str, weight: WeightReader) -> None:
        self.parameters.fill(module, start_one(module, weight, self.adapter, self.seed))


class _WholeNeeded(Exception):
    """A method asked for more than rows and columns."""


class _Slices:
    """A reader of rows and columns alone."""

    def __init__(self, weight: WeightReader) -> None:
        self.shape, self.rows, self.columns = weight.shape, weight.rows, weight.columns

    def full(self) -> torch.Tensor:
        raise _WholeNeeded

    def blocks(self, _num_rows: int) -> Iterator[torch.Tensor]:
        raise _WholeNeeded


class _Parameters:
    """The parameters of the active adapter, under the names that they have in a file."""

    def __init__(self, model: PeftModel) -> None:
        infix = f".{model.active_adapter}"
        self._by_name = {
            _plain(name.replace(infix, "")): parameter
            for name, parameter in model.named_parameters()
            if ".lora_" in name and (f"{infix}." in name or name.endswith(infix))
        }

    def of(self, module: str) -> dict[str, torch.nn.Parameter]:
        """Those of one module."""
        prefix = f"base_model.model.{module}.lora_"
        return {name: parameter for name, parameter in self._by_name.items() if name.startswith(prefix)}

    def fill(self, module: str, factors: Factors) -> None:
        """Copy the factors in, rounded to the parameters' dtype."""
        starts = {_plain(name): start for name, start in named(module, factors).items()}
        parameters = self.of(module)
        assert starts.keys() == parameters.keys(), (starts.keys(), parameters.keys())
        for name, start in starts.items():
            parameters[name].copy_(start)


def _plain(name: str) -> str:
    return name.removesuffix(".weight")


def _require_startable(model: PeftModel, layers: dict[str, Linear], adapter: AdapterConfig) -> None:
    if adapter.NEEDS_GRADIENT:
        raise UserError(f"{adapter.method}: needs the loss's gradient; start it from files, with the init stage")
    if not layers:
        raise UserError("the model has no linear layer with an adapter; make it with get_peft_model")
    found, expected = model.active_peft_config, peft_config(adapter, list(layers))
    for key in ("init_lora_weights", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_dora", "core_order"):
        got, wanted = getattr(found, key, None), getattr(expected, key, None)
        if got != wanted:
            raise UserError(f"the model's adapter has {key} = {got!r}, expected {wanted!r} for {adapter.method}")
    for module, layer in layers.items():
        if is_partitioned(layer.lora_A[model.active_adapter].weight):
            raise UserError(f"{module}: its adapter is divided already; call get_peft_model outside of zero.Init")
        if layer.get_base_layer().weight.dtype not in TORCH_DTYPE.values():
            raise UserError(f"{module}: found a quantised weight, expected float; start from the unquantised model")
