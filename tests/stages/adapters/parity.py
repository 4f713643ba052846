"""Adapters side by side: as our pipeline starts and loads them, and as PEFT makes them itself."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from pipeline.stage import Resources, Workspace
from stages import init_adapter
from stages._adaptation.probe import load_model
from stages._peft.load import adapted_layers, load_adapter, subtract_update
from tests.stages.adapters.matrices import config
from tests.stages.conftest import artifact

TOKENS = torch.arange(6, 46).view(4, 10)


def ours(model_dir: Path, out_dir: Path, method: str, **options) -> PeftModel:
    """The tiny model as training has it: started on disk by `init_adapter`, loaded, its start subtracted."""
    stage = init_adapter.Config(adapter=config(method, **options), probe=False)
    resources = Resources(device="cpu", num_threads=1, store_dir=out_dir)
    init_adapter.run(
        stage, init_adapter.Inputs(model=artifact(model_dir, "prepare_model")), Workspace(out_dir), resources
    )
    model = load_adapter(load_model(model_dir), out_dir, trainable=True)
    if stage.adapter.subtracts_start:
        subtract_update(model)
    return model


def pefts(model_dir: Path, **options) -> PeftModel:
    """The tiny model as PEFT starts it, on all linear layers."""
    values = {"lora_alpha": options.get("r"), "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return get_peft_model(load_model(model_dir), LoraConfig(**{**values, **options}))


def copy_factors(source: PeftModel, target: PeftModel) -> None:
    """Give one adapter the values of another; both must have the same tensors."""
    values = get_peft_model_state_dict(source)
    assert values.keys() == get_peft_model_state_dict(target).keys()
    set_peft_model_state_dict(target, values)


def assert_trains_alike(first: PeftModel, second: PeftModel) -> None:
    """The same trained tensors, the same function now and after each of three steps of gradient descent."""
    assert trained_names(first) == trained_names(second)
    at_start = logits(first)
    for _ in range(3):
        assert torch.allclose(logits(first), logits(second), atol=2e-5)
        assert abs(descend(first) - descend(second)) < 1e-5
    assert torch.allclose(logits(first), logits(second), atol=2e-5)
    assert not torch.allclose(logits(first), at_start, atol=1e-3)


def trained_names(model: PeftModel) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def descend(model: Any) -> float:
    """One step of gradient descent; the loss before it."""
    model.zero_grad()
    loss = model(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.5 * parameter.grad
    return float(loss.detach())


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=TOKENS).logits


def base_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    """Module name -> W of the base as it is now, reduced by the start or not."""
    return {name: layer.get_base_layer().weight for name, layer in adapted_layers(model)}


def assert_same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], atol: float = 1e-5) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=atol), name


def pefts_layer(weight_OI: torch.Tensor, seed: int, **options) -> Any:
    """PEFT's own start on one linear layer of this weight, with the process seeded."""
    num_out, num_in = weight_OI.shape
    model = nn.Sequential(nn.Linear(num_in, num_out, bias=False, dtype=weight_OI.dtype))
    model[0].weight.data = weight_OI.clone()
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(target_modules=["0"], **options)).base_model.model[0]


def generator_after_peft(weight_OI: torch.Tensor, seed: int, rank: int) -> torch.Generator:
    """Our generator where PEFT's seeded process is when it starts a layer: two linear layers were made before."""
    num_out, num_in = weight_OI.shape
    generator = torch.Generator().manual_seed(seed)
    for shape in ((rank, num_in), (num_out, rank)):
        torch.empty(shape).uniform_(generator=generator)
    return generator
