"""LoRA+: the optimizer's groups are those of PEFT's own."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from stages import train
from stages._training.engine import set_learning_rate
from stages._training.optimizers import build, rate_groups
from stages.adapters import lora, loraplus


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.up_proj = nn.Linear(8, 12), nn.Linear(12, 8)


@pytest.fixture
def model() -> PeftModel:
    return get_peft_model(Model(), LoraConfig(target_modules=["q_proj", "up_proj"], r=2))


def rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    return {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}


def test_rates_are_those_of_peft(model):
    chosen = loraplus.Config(method="loraplus", rank=2, learning_rate_ratio=7.0)
    ours: Any = build(model, train.Config(), chosen)
    theirs = create_loraplus_optimizer(model, torch.optim.AdamW, lr=3e-4, loraplus_lr_ratio=7.0)
    set_learning_rate(SimpleNamespace(optimizer=ours), 3e-4)
    assert rates(ours) == rates(theirs)
    assert len(ours.param_groups) == 2


def test_methods_without_rates_keep_one_group(model):
    (group,) = rate_groups(model, lora.Config(method="lora", rank=2))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in trained]
