"""Whole tensors of what DeepSpeed divides unevenly among two processes, against plain PyTorch."""

import copy
from typing import Any

import deepspeed
import pytest
import torch
from deepspeed import comm
from peft import LoraConfig, get_peft_model
from torch import nn

from stages._peft.config import StructuredLoraConfig
from stages._training import whole
from tests.stages import two_processes

KEPT_WHOLE = 100
"""Numbers of a parameter below which ZeRO-3 does not divide it: more than any has here."""
ENGINES = [
    (0, "float32", 0),
    *((stage, dtype, 0) for stage in (1, 2, 3) for dtype in ("float32", "bfloat16")),
    (3, "float32", KEPT_WHOLE),
]
DORA = {
    "dora": LoraConfig(target_modules=["first", "second"], r=2, use_dora=True),
    "dora dropout": LoraConfig(target_modules=["first", "second"], r=2, use_dora=True, lora_dropout=0.4),
    "slora dora dropout": StructuredLoraConfig(
        target_modules=["first", "second"], r=2, init_lora_weights="s_lora", use_dora=True, lora_dropout=0.4
    ),
}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 3, bias=False), nn.Linear(3, 7, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


# ---- in the two processes


def main() -> None:
    two_processes.join()
    for stage, dtype, threshold in ENGINES:
        print("case", stage, dtype, threshold, flush=True)
        reads_and_writes(stage, getattr(torch, dtype), threshold)
    for name, config in DORA.items():
        for stage in (0, 2, 3):
            print("case", name, stage, flush=True)
            gradients_of_dora(stage, config)


def build(model: nn.Module, stage: int, dtype: torch.dtype, threshold: int = 0) -> Any:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = {
        "train_batch_size": 2,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": threshold},
        "bf16": {"enabled": dtype is torch.bfloat16},
    }
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)[0]


def loss_of(model: Any, dtype: torch.dtype) -> torch.Tensor:
    """Another batch, and another dropout mask, in each process."""
    torch.manual_seed(1 + comm.get_rank())
    return model(torch.randn(4, 5).to(dtype)).float().square().sum()


def mean_gradients(model: nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
    """Over both processes, without DeepSpeed's help."""
    loss_of(model, dtype).backward()
    gradients = [each.grad.float() for each in model.parameters() if each.grad is not None]
    for gradient in gradients:
        comm.all_reduce(gradient)
    return [gradient / 2 for gradient in gradients]


def reads_and_writes(stage: int, dtype: torch.dtype, threshold: int) -> None:
    torch.manual_seed(0)
    model = Model().to(dtype)
    start = [parameter.detach().float().clone() for parameter in model.parameters()]
    expected = mean_gradients(copy.deepcopy(model), dtype)
    engine = build(model, stage, dtype, threshold)
    engine.backward(loss_of(engine, dtype))
    parameters = list(engine.module.parameters())
    tolerance = 1e-6 if dtype is torch.float32 else 0.05
    for parameter, gradient, value in zip(parameters, expected, start, strict=True):
        assert torch.allclose(whole.gradient(parameter), gradient, rtol=tolerance, atol=tolerance)
        assert torch.equal(whole.value(parameter), value)
        whole.set_gradient(parameter, torch.full_like(value, 0.5))
        assert (whole.gradient(parameter) == 0.5).all()
    engine.step()
    for parameter, value in zip(parameters, start, strict=True):
        assert torch.allclose(whole.optimizer_state(engine, parameter, "exp_avg"), torch.full_like(value, 0.05))
        whole.set_optimizer_state(engine, parameter, "exp_avg", value)
        assert torch.equal(whole.optimizer_state(engine, parameter, "exp_avg"), value)
        whole.set_value(parameter, value + 1 / 3)
    whole.forget_step_count(engine)
    written = Model().to(dtype)
    for parameter, value in zip(written.parameters(), start, strict=True):
        parameter.data.copy_(value + 1 / 3)
    assert torch.equal(loss_of(engine, dtype), loss_of(written, dtype))  # the working copy is used
    engine.backward(loss_of(engine, dtype))
    engine.step()  # at a rate of zero: the working copy is made from the master again
    assert torch.equal(loss_of(engine, dtype), loss_of(written, dtype))
    for parameter, value in zip(parameters, start, strict=True):
        assert torch.equal(whole.value(parameter), value + 1 / 3)
    assert all(state["step"] == 1 for state in engine.basic_optimizer.state.values())


def gradients_of_dora(stage: int, config: LoraConfig) -> None:
    torch.manual_seed(0)
    model = get_peft_model(Model(), copy.deepcopy(config))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    expected = mean_gradients(copy.deepcopy(model), torch.float32)
    engine = build(model, stage, torch.float32)
    engine.backward(loss_of(engine, torch.float32))
    trained = [(name, each) for name, each in engine.module.named_parameters() if each.requires_grad]
    assert sum("magnitude" in name for name, _ in trained) == 2
    for (name, parameter), gradient in zip(trained, expected, strict=True):
        assert gradient.any(), name
        assert torch.allclose(whole.gradient(parameter), gradient, rtol=1e-4, atol=1e-5), name
    engine.step()


# ---- the test


@pytest.mark.slow
def test_what_is_written_is_what_deepspeed_goes_on_with_and_dora_has_its_gradients():
    """At every stage, with and without short floats, in one launch; the last case printed is the one that failed."""
    two_processes.run("tests.stages.test_whole")


if __name__ == "__main__":
    main()
