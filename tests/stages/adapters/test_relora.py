"""ReLoRA: what is folded, redrawn, pruned and joined, on a model of two layers in this process."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from stages._peft.load import load_adapter, load_factors
from stages.adapters import algebra, relora
from stages.adapters.training import TrainingContext

CONFIG = relora.Config(method="relora", rank=2, alpha=4, restart_every=3, restart_warmup_steps=4, keep_optimizer=0.25)
NUM_STEPS = 9


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q_proj, self.up_proj = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up_proj(torch.tanh(self.q_proj(x)))


class Run:
    """Plain PyTorch training with the method's part, as the loop calls it."""

    def __init__(self, config: relora.Config = CONFIG, lr: float = 0.1) -> None:
        peft_config = LoraConfig(target_modules=["q_proj", "up_proj"], r=2, lora_alpha=4)
        self.model: PeftModel = get_peft_model(Model(), peft_config)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=lr)
        engine: Any = SimpleNamespace(
            module=self.model, basic_optimizer=self.optimizer, global_rank=0, zero_optimization_stage=lambda: 0
        )
        self.part: Any = relora.training(config, TrainingContext(engine, NUM_STEPS, 0, None))

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            loss = (self.model(torch.randn(16, 8, generator=generator)) - 1).square().mean()
            loss.backward()
            self.part.gradients_complete(step)
            self.optimizer.step()
            self.part.step_done(step, 0.0)
            self.optimizer.zero_grad()

    def factors(self) -> dict[str, torch.Tensor]:
        return {
            name.replace(".default", ""): parameter.detach().clone()
            for name, parameter in self.model.named_parameters()
            if "lora_" in name
        }


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(99))


def test_a_restart_leaves_the_model_as_it_is(x):
    run = Run()
    run.steps(0, 2)
    before = run.model.base_model.model.q_proj.base_layer.weight.clone()
    run.steps(2, 3)  # the third step ends with a restart
    layer = run.model.base_model.model.q_proj
    folded = run.part.rounds[0]
    a_RI, b_OR = (folded[f"base_model.model.q_proj.lora_{letter}.weight"] for letter in "AB")
    assert b_OR.any()
    assert torch.equal(layer.base_layer.weight, before + 2.0 * (b_OR @ a_RI))
    assert not layer.lora_B["default"].weight.any()
    assert not torch.equal(layer.lora_A["default"].weight, a_RI)


def test_all_rounds_are_one_lora_against_the_untouched_base(x, tmp_path):
    run = Run()
    run.steps(0, NUM_STEPS)
    assert len(run.part.rounds) == 2  # none after the last step
    run.model.save_pretrained(tmp_path)
    start = {"r": 2, "lora_alpha": 4, "rank_pattern": {"up_proj": 2}, "alpha_pattern": {"up_proj": 4}}
    tensors, written = run.part.final(run.factors(), start)
    assert written == {"r": 6, "lora_alpha": 12, "rank_pattern": {"up_proj": 6}, "alpha_pattern": {"up_proj": 12}}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    rewrite(tmp_path, written)
    plain = load_adapter(Model(), tmp_path)
    assert torch.allclose(plain(x), run.model(x), atol=1e-5)
    for module, factors in load_factors(tmp_path).items():
        merged = getattr(Model(), module).weight + algebra.product(factors, CONFIG.scaling, torch.float32)
        layer = getattr(run.model.base_model.model, module)
        assert torch.allclose(merged, layer.base_layer.weight + layer.get_delta_weight("default"), atol=1e-5)


def rewrite(folder, changes: dict[str, Any]) -> None:
    import json

    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_loaded_part_has_the_same_base(tmp_path):
    run = Run()
    run.steps(0, 7)
    run.part.save(tmp_path)
    other = Run()
    other.part.load(tmp_path)
    for name in ("q_proj", "up_proj"):
        first, second = (getattr(each.model.base_model.model, name).base_layer.weight for each in (run, other))
        assert torch.equal(first, second)
    assert [load_file(file).keys() for file in sorted(tmp_path.iterdir())] == [each.keys() for each in run.part.rounds]


def test_the_optimizer_keeps_its_largest_means():
    run = Run()
    run.steps(0, 3)
    for parameter, state in run.optimizer.state.items():
        kept = state["exp_avg"] != 0
        assert int(kept.sum()) == parameter.numel() // 4
        assert torch.equal(kept, state["exp_avg_sq"] != 0)
        assert state["step"] == 3


def test_the_optimizer_starts_anew():
    run = Run(CONFIG.model_copy(update={"keep_optimizer": 0.0}))
    run.steps(0, 3)
    for state in run.optimizer.state.values():
        assert not state["exp_avg"].any()
        assert not state["exp_avg_sq"].any()
        assert state["step"] == 0


def test_the_rate_rises_again_after_each_restart():
    rates = [Run().part.rate_factor(step) for step in range(7)]
    assert rates == pytest.approx([1, 1, 1, 0.2, 0.4, 0.6, 0.2])


def test_what_is_largest():
    values = torch.tensor([[-3.0, 1.0], [2.0, -0.5]])
    assert relora.largest(values, 0.5).tolist() == [[True, False], [True, False]]
    assert relora.largest(values, 1.0).all()
    assert not relora.largest(values, 0.0).any()
