"""AdaLoRA against PEFT's own training loop, and NLoRA's rows under the same budget."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import UserError
from stages import train
from stages._peft.load import load_adapter, load_factors
from stages._training.part import training_part
from stages.adapters import adalora, algebra, nlora
from stages.adapters.training import TrainingContext

NUM_STEPS, MAX_NORM = 20, 0.05
CONFIG = adalora.Config(method="adalora", rank=6, target_rank=2, allocate_every=2, alpha=12)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q_proj, self.up_proj = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> SimpleNamespace:
        out = self.up_proj(torch.tanh(self.q_proj(x)))
        return SimpleNamespace(out=out, loss=None if labels is None else (out - labels).square().mean())


def adapted() -> PeftModel:
    options = {**CONFIG.peft_options(), **CONFIG.peft_schedule(NUM_STEPS), "lora_alpha": 12}
    torch.manual_seed(1)
    return get_peft_model(Model(), AdaLoraConfig(target_modules=["q_proj", "up_proj"], **options))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(32, 8, generator=generator)
    return x, x.roll(1, dims=1)


def train_as_peft_does(num_steps: int = NUM_STEPS) -> PeftModel:
    model: Any = adapted()
    optimizer = torch.optim.AdamW(trained_of(model), lr=0.05)
    for step in range(num_steps):
        model.base_model(*batch(step)).loss.backward()  # PEFT adds its second loss there, and only there
        torch.nn.utils.clip_grad_norm_(trained_of(model), MAX_NORM)
        optimizer.step()
        model.base_model.update_and_allocate(step + 1)
        optimizer.zero_grad()
    return model


class Run:
    """Plain PyTorch training with the method's part, as the loop calls it."""

    def __init__(self) -> None:
        self.model: Any = adapted()
        self.optimizer = torch.optim.AdamW(trained_of(self.model), lr=0.05)
        self.part: Any = adalora.training(CONFIG, context(self.model))

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last):
            x, labels = batch(step)
            (self.model(x).out - labels).square().mean().backward()
            self.part.gradients_complete(step)
            norm = torch.nn.utils.clip_grad_norm_(trained_of(self.model), MAX_NORM)
            self.optimizer.step()
            self.part.step_done(step, float(norm))
            self.optimizer.zero_grad()


def context(model: Any) -> TrainingContext:
    return TrainingContext(SimpleNamespace(module=model), NUM_STEPS, 0, MAX_NORM)


def trained_of(model: Any) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def factors(model: Any) -> dict[str, torch.Tensor]:
    return {name: each.detach() for name, each in model.named_parameters() if ".lora_" in name}


@pytest.mark.parametrize("num_steps", [1, 4, 9, 14, NUM_STEPS])
def test_terms_and_factors_are_those_of_peft(num_steps):
    theirs = train_as_peft_does(num_steps)
    ours = Run()
    ours.steps(0, num_steps)
    assert ours.part.kept == (theirs.peft_config["default"].rank_pattern or {})
    expected = factors(theirs)
    for name, value in factors(ours.model).items():
        assert torch.allclose(value, expected[name], atol=1e-5), name


def test_the_budget_is_kept():
    run = Run()
    run.steps(0, NUM_STEPS)
    left = [sum(kept) for kept in run.part.kept.values()]
    assert sum(left) == 2 * CONFIG.target_rank
    for name, kept in run.part.kept.items():
        weights = dict(run.model.named_parameters())[f"base_model.model.{name}"]
        assert (weights[:, 0] != 0).tolist() == kept


@pytest.mark.parametrize("stopped_at", [5, 14, 17])
def test_it_goes_on_bit_for_bit(stopped_at, tmp_path):
    whole = Run()
    whole.steps(0, NUM_STEPS)
    first, second = Run(), Run()
    first.steps(0, stopped_at)
    first.part.save(tmp_path)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.part.load(tmp_path)
    second.steps(stopped_at, NUM_STEPS)
    assert second.part.kept == whole.part.kept
    expected = factors(whole.model)
    assert all(torch.equal(value, expected[name]) for name, value in factors(second.model).items())


def test_what_is_written_loads_in_peft_and_merges(tmp_path):
    run = Run()
    run.steps(0, NUM_STEPS)
    run.model.save_pretrained(tmp_path)
    start = json.loads((tmp_path / "adapter_config.json").read_text())
    named = {name.removesuffix(".default"): value for name, value in factors(run.model).items()}
    tensors, written = run.part.final(named, start)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(written))
    x, _ = batch(99)
    expected = run.model.eval()(x).out
    assert torch.allclose(PeftModel.from_pretrained(Model(), str(tmp_path)).eval()(x).out, expected, atol=1e-6)
    assert torch.allclose(load_adapter(Model(), tmp_path).eval()(x).out, expected, atol=1e-6)
    loaded = load_factors(tmp_path)
    assert sum(len(each.A_RI) for each in loaded.values()) == 2 * CONFIG.target_rank
    for module, each in loaded.items():
        delta = getattr(run.model.base_model.model, module).get_delta_weight("default")
        assert torch.allclose(algebra.product(each, CONFIG.scaling, torch.float32), delta, atol=1e-6)


@pytest.mark.parametrize("letter", ["A", "B"])
def test_slope_of_the_distance_from_orthogonality(letter):
    factor = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    factor = (factor if letter == "A" else factor.T.clone()).requires_grad_()
    gram = factor @ factor.T if letter == "A" else factor.T @ factor
    torch.linalg.matrix_norm(gram - torch.eye(3)).backward()
    assert torch.allclose(adalora.distance_slope(factor.detach(), letter), factor.grad)


def test_the_weight_of_a_row_of_the_core_is_one():
    """Its gradient is that of a diagonal of ones between B and N."""
    generator = torch.Generator().manual_seed(0)
    a_RI, n_RR, b_OR = (torch.randn(shape, generator=generator) for shape in ((3, 5), (3, 3), (4, 3)))
    n_RR.requires_grad_()
    ones_R = torch.ones(3, requires_grad=True)
    (b_OR @ (ones_R[:, None] * n_RR) @ a_RI).square().sum().backward()
    part = object.__new__(nlora.CoreBudget)
    gradients = {"N": n_RR.grad, "B": torch.zeros_like(b_OR)}
    found = part.term_gradients({"N": n_RR.detach(), "B": b_OR}, gradients)
    assert torch.allclose(found["E"][:, 0], ones_R.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_rank": 6}, "must be < rank"),
        ({"target_rank": 2, "final_share": 0.95}, "must be < 1"),
        ({"target_rank": 2, "rank_pattern": {"q_proj": 4}}, "rank_pattern"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        adalora.Config.model_validate({"method": "adalora", "rank": 6, **options})


@pytest.mark.parametrize("other", [{"order": "BAN"}, {"dora": True}, {"rank_pattern": {"q_proj": 2}}])
def test_a_budget_for_nlora_goes_with_its_own_form_only(other):
    with pytest.raises(ValidationError, match=r"budget: found with|target_rank"):
        nlora.Config.model_validate({"method": "nlora", "rank": 6, "budget": {"target_rank": 2}, **other})


def test_values_that_cannot_be_reached_are_refused(tmp_path):
    (tmp_path / "adapter.json").write_text(CONFIG.model_dump_json())
    chosen = train.Config(zero_stage=0, dtype="bfloat16")
    spec: Any = SimpleNamespace(adapter_dir=tmp_path, config=chosen)
    with pytest.raises(UserError, match=r"zero_stage: got 0 with dtype bfloat16.*adalora"):
        training_part(spec, SimpleNamespace(module=adapted()), NUM_STEPS)
