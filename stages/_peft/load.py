"""Put an adapter on a model, and its factors into a file."""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, PeftModel
from peft.tuners.lora import Linear
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.errors import StepFailed
from stages._peft.config import CONFIG_FILE, WEIGHTS_FILE, read_config
from stages._weights.partitioned import writable
from stages._weights.streaming import StreamWriter
from stages.adapters.base import Factors, Order

_PREFIX = "base_model.model."
_KINDS = ("lora_A.weight", "lora_N.weight", "lora_B.weight", "lora_magnitude_vector")
_ADALORA_KINDS = ("lora_A", "lora_B", "lora_E")


def load_adapter(model: Any, adapter_dir: Path, *, trainable: bool = False) -> PeftModel:
    """The model as a PeftModel with the adapter of a folder. Raises StepFailed if they do not fit each other."""
    config = read_config(adapter_dir)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(missing|unexpected).*keys.*")
        warnings.filterwarnings("ignore", message=".*rank_pattern keys did not match.*lora_E")  # PEFT's own, of AdaLoRA
        try:
            return PeftModel.from_pretrained(
                model,
                str(adapter_dir),
                config=config,
                is_trainable=trainable,
                low_cpu_mem_usage=not isinstance(config, AdaLoraConfig),  # PEFT cuts its ranks from real tensors
            )
        except UserWarning as problem:
            raise StepFailed(f"{adapter_dir}: the adapter does not fit the model: {problem}") from None


def adapted_layers(model: PeftModel) -> Iterator[tuple[str, Linear]]:
    """(module name in the base model, layer) of every adapted linear layer."""
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            yield name.removeprefix(_PREFIX), module


@torch.no_grad()
def subtract_update(model: PeftModel) -> None:
    """W -= s B N A in every adapted layer, in float32, so that base and adapter together give W again.

    Under ZeRO-3 each weight is gathered in turn and written by rank 0.
    """
    for _name, layer in adapted_layers(model):
        weight = layer.get_base_layer().weight
        with writable(weight):
            weight.copy_(weight.float() - layer.get_delta_weight(model.active_adapter).float())


def save_factors(factors: Mapping[str, Factors], adapter_dir: Path) -> int:
    """Write module name -> factors as PEFT's adapter_model.safetensors; the number of numbers in it."""
    tensors = {name: tensor for module, each in factors.items() for name, tensor in named(module, each).items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, adapter_dir / WEIGHTS_FILE)
    return sum(tensor.numel() for tensor in tensors.values())


def stream_factors(factors: Iterable[tuple[str, Factors]], modules: Iterable[str], adapter_dir: Path) -> int:
    """The same for pairs that come one after the other, of some or all of `modules`; none is held. In float32."""
    num_parameters = 0
    with StreamWriter(adapter_dir / WEIGHTS_FILE, [f"{_PREFIX}{m}.{kind}" for m in modules for kind in _KINDS]) as file:
        for module, each in factors:
            for name, tensor in named(module, each).items():
                file.add(name, tensor)
                num_parameters += tensor.numel()
    return num_parameters


def named(module: str, factors: Factors) -> dict[str, torch.Tensor]:
    """The names that PEFT gives these factors in a file. A diagonal core is AdaLoRA's E [R, 1]."""
    prefix = f"{_PREFIX}{module}"
    a_RI, core, b_OR, magnitude_O, _order = factors
    if core is not None and core.dim() == 1:
        return {f"{prefix}.lora_A": a_RI, f"{prefix}.lora_B": b_OR, f"{prefix}.lora_E": core[:, None]}
    tensors = {f"{prefix}.lora_A.weight": a_RI, f"{prefix}.lora_B.weight": b_OR}
    if core is not None:
        tensors[f"{prefix}.lora_N.weight"] = core
    if magnitude_O is not None:
        tensors[f"{prefix}.lora_magnitude_vector"] = magnitude_O
    return tensors


def load_factors(adapter_dir: Path) -> "FactorsFile":
    """Module name -> factors, in the dtype of the file."""
    return FactorsFile(adapter_dir)


class FactorsFile(Mapping[str, Factors]):
    """The factors in an adapter's folder, read anew each time they are asked for.

    Raises StepFailed naming what is in the file beside factors of linear layers.
    """

    def __init__(self, adapter_dir: Path) -> None:
        self._file = adapter_dir / WEIGHTS_FILE
        self._order: Order = json.loads((adapter_dir / CONFIG_FILE).read_text()).get("core_order", "BNA")
        self._names: dict[str, list[str]] = {}
        with safe_open(self._file, framework="pt") as file:
            names = sorted(file.keys())
            _refuse_unknown(self._file, names)
            for name in names:
                self._names.setdefault(_module(name), []).append(name)
            self._shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}

    def shape(self, module: str) -> tuple[int, int]:
        """(O, I) of the matrix that a module's factors belong to."""
        (b,) = (name for name in self._names[module] if ".lora_B" in name)
        (a,) = (name for name in self._names[module] if ".lora_A" in name)
        return self._shapes[b][0], self._shapes[a][1]

    def __getitem__(self, module: str) -> Factors:
        with safe_open(self._file, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in self._names[module]}
        return _factors(f"{_PREFIX}{module}", tensors, self._order)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _module(name: str) -> str:
    return name.partition(".lora_")[0].removeprefix(_PREFIX)


def _refuse_unknown(file: Path, names: Iterable[str]) -> None:
    """What PEFT may keep beside factors: nothing here knows its place, and it must not get lost."""
    known = {f"{_PREFIX}{_module(name)}.{kind}" for name in names for kind in (*_KINDS, *_ADALORA_KINDS)}
    found: dict[str, list[str]] = {}
    for name in names:
        if name not in known:
            found.setdefault(_what(name), []).append(name.removeprefix(_PREFIX))
    if found:
        lines = [f"{names[0]} ({what}, {len(names)} of its kind)" for what, names in found.items()]
        raise StepFailed(
            f"{file}: found {', '.join(lines)}, expected the factors of linear layers alone: nothing else has a place "
            "in a merged or exported model here; train the adapter without it"
        )


def _what(name: str) -> str:
    """The option of PEFT that a tensor comes from."""
    if name.endswith(".bias"):
        return "a trained bias: bias, lora_bias"
    if ".lora_embedding_" in name:
        return "an adapter on an embedding"
    if ".lora_" in name or "trainable_tokens" in name:
        return "another kind of adapter"
    return "a whole trained module: modules_to_save, or the embeddings of a resized vocabulary"


def _factors(module: str, tensors: Mapping[str, torch.Tensor], order: Order) -> Factors:
    if f"{module}.lora_E" in tensors:
        core_R = tensors[f"{module}.lora_E"][:, 0]
        return Factors(tensors[f"{module}.lora_A"], core_R, tensors[f"{module}.lora_B"])
    return Factors(
        tensors[f"{module}.lora_A.weight"],
        tensors.get(f"{module}.lora_N.weight"),
        tensors[f"{module}.lora_B.weight"],
        tensors.get(f"{module}.lora_magnitude_vector"),
        order,
    )
