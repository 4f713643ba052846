"""A net of two linear layers, adapted by the methods whose layers are ours."""

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch.func import functional_call

from stages._peft.config import peft_config
from stages.adapters.base import Factors
from tests.stages.adapters.matrices import RANK, config, explicit

NUM_IN, NUM_OUT = 10, 14
SCALE = 2.0
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("slora", {}),
    ("slora", {"order": "BAN"}),
    ("nlora", {}),
    ("nlora", {"order": "BAN"}),
    ("inttune", {}),
]
DORA_FORMS: list[tuple[str, dict[str, Any]]] = [
    (method, {"dora": True, "order": order}) for method in ("slora", "nlora") for order in ("BNA", "BAN")
]


class Net(nn.Module):
    """Two linear layers, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(NUM_IN, NUM_OUT, dtype=torch.float64)
        self.second = nn.Linear(NUM_OUT, NUM_IN, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def adapted(method: str, **options) -> PeftModel:
    """The net with an adapter as PEFT's own calls make it, scaled by SCALE."""
    chosen = config(method, alpha=SCALE * RANK, **options)
    return get_peft_model(Net(), peft_config(chosen, ["first", "second"], None))


def randomize(model: nn.Module) -> nn.Module:
    """Give every factor a value, as training would; lengths stay positive."""
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if "lora_" in name:
                generator = torch.Generator().manual_seed(number)
                value = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.copy_(value.abs() + 0.1 if "magnitude" in name else value)
    return model


def layer_of(method: str, name: str = "first", **options) -> nn.Module:
    """One adapted layer with random factors."""
    return randomize(adapted(method, **options).get_submodule(f"base_model.model.{name}"))


def inputs(*shape: int, width: int = NUM_IN) -> torch.Tensor:
    return torch.randn(*shape, width, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def factors_of(layer: nn.Module) -> Factors:
    """What a layer holds, attached to its graph."""
    magnitude = layer.lora_magnitude_vector
    return Factors(
        layer.lora_A["default"].weight,
        layer.lora_N["default"].weight,
        layer.lora_B["default"].weight,
        magnitude["default"].weight if "default" in magnitude else None,
        layer.core_order["default"],
    )


def adapted_lengths(layer: nn.Module) -> torch.Tensor:
    """[O]: ||W + s B N A||, row by row."""
    return (layer.get_base_layer().weight + SCALE * explicit(factors_of(layer))).norm(dim=1)


def formula(layer: nn.Module, x: torch.Tensor, lengths_O: torch.Tensor | None = None) -> torch.Tensor:
    """(W + s B N A) x + bias; with DoRA each row is divided by `lengths_O` (by default its length) and multiplied by
    its trained length.
    """
    base, factors = layer.get_base_layer(), factors_of(layer)
    weight_OI = base.weight + SCALE * explicit(factors)
    if factors.magnitude_O is not None:
        lengths_O = adapted_lengths(layer) if lengths_O is None else lengths_O
        weight_OI = weight_OI * (factors.magnitude_O / lengths_O)[:, None]
    return x @ weight_OI.T + base.bias


def gradients(layer: nn.Module, output: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a fixed function of the output, for every trained tensor by name."""
    trained = {name: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}
    fixed = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    found = torch.autograd.grad((output * fixed).sum(), list(trained.values()))
    return dict(zip(trained, found, strict=True))


def gradients_are_finite_differences(layer: nn.Module, x: torch.Tensor, only: str = "") -> bool:
    """Of the layer's output for its input and every trained tensor (or those whose names have `only` in them)."""
    names = [name for name, parameter in layer.named_parameters() if parameter.requires_grad and only in name]
    assert names
    values = [layer.get_parameter(name).detach().clone().requires_grad_() for name in names]

    def output(x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        return functional_call(layer, dict(zip(names, tensors, strict=True)), (x,))

    return torch.autograd.gradcheck(output, (x.requires_grad_(), *values), fast_mode=True)
