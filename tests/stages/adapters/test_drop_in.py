"""The script in the README of the paper's code, with the released PEFT and one import of ours."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from pipeline.errors import UserError
from stages import adapters
from stages.adapters.drop_in import LoraConfig
from tests.stages import two_processes
from tests.stages.conftest import write_tiny_model

TARGETS = ["q_proj", "o_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA, NUM_STEPS = 8, 16, 12


class QuantisedParameter(nn.Parameter):
    """As bitsandbytes has them: numbers that mean something else."""


def with_weight(layer: nn.Module, weight: nn.Parameter) -> nn.Module:
    layer.weight = weight
    return layer


def config_of(init: bool | str, **options: Any) -> LoraConfig:
    """As in that README, with a smaller rank."""
    return LoraConfig(
        **{
            "task_type": TaskType.CAUSAL_LM,
            "target_modules": TARGETS,
            "inference_mode": False,
            "r": RANK,
            "lora_alpha": ALPHA,
            "lora_dropout": 0,
            "init_lora_weights": init,
            **options,
        }
    )


def load_base(model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)


def train(model: Any, num_steps: int = NUM_STEPS) -> list[float]:
    """Counting upwards, over and over; the losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(num_steps):
        loss = model(input_ids=samples(), labels=samples()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def samples() -> torch.Tensor:
    return torch.arange(6, 22)[None] + torch.arange(4)[:, None]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    model.eval()
    return model(input_ids=samples()).logits


def factors(model: Any, module: str, adapter: str = "default") -> dict[str, torch.Tensor]:
    layer = model.get_submodule(f"base_model.model.{module}")
    return {name: getattr(layer, f"lora_{name}")[adapter].weight.detach() for name in "ANB" if name_in(layer, name)}


def name_in(layer: Any, name: str) -> bool:
    return "default" in getattr(layer, f"lora_{name}", {})


@pytest.mark.parametrize("init", ["n_lora", "s_lora", True])
def test_the_script(init, tiny_model_dir, tmp_path, capsys):
    model = get_peft_model(load_base(tiny_model_dir), config_of(init))
    model.print_trainable_parameters()
    shapes = [w.shape for n, w in load_base(tiny_model_dir).named_parameters() if "_proj" in n]
    count = sum(RANK * (o + i) + (0 if init is True else RANK**2) for o, i in shapes)
    assert f"trainable params: {count:,}" in capsys.readouterr().out
    losses = train(model)
    assert losses[-1] < losses[0] - 0.1
    expected = logits(model)
    model.save_pretrained(tmp_path)

    again = PeftModel.from_pretrained(
        load_base(tiny_model_dir), str(tmp_path), config=LoraConfig.from_pretrained(str(tmp_path))
    )
    assert torch.allclose(logits(again), expected, atol=1e-5)
    again.save_pretrained(tmp_path / "again")
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert first.keys() == second.keys()
    merged = again.merge_and_unload()
    assert not any("lora_" in name for name, _ in merged.named_parameters())
    assert torch.allclose(logits(merged), expected, atol=1e-4)


def test_nlora_starts_as_in_the_paper_s_code(tiny_model_dir):
    base = load_base(tiny_model_dir)
    weights = {name: weight.detach().clone() for name, weight in base.named_parameters()}
    model = get_peft_model(base, config_of("n_lora"))
    for module in ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.k_proj"):
        weight, started = weights[f"{module}.weight"], factors(model, module)
        assert torch.equal(started["A"], weight[:RANK])
        assert torch.equal(started["N"], weight[:RANK, :RANK])
        assert torch.equal(started["B"], weight[:, :RANK])
        layer = model.get_submodule(f"base_model.model.{module}")
        assert torch.equal(layer.get_base_layer().weight, weight)  # nothing is subtracted
        x = torch.randn(3, weight.shape[1])
        update = started["B"] @ started["N"] @ started["A"]
        assert torch.allclose(layer(x), x @ (weight + ALPHA / RANK * update).T, atol=1e-6)


def test_slora_starts_as_in_the_paper_s_code(tiny_model_dir):
    started = factors(get_peft_model(load_base(tiny_model_dir), config_of("s_lora")), "model.layers.0.mlp.up_proj")
    assert not started["B"].any()
    for factor in (started["A"], started["N"]):  # Kaiming's rule with a = sqrt 5: uniform within 1 / sqrt(inputs)
        bound = factor.shape[1] ** -0.5
        assert float(factor.abs().max()) <= bound
        assert float(factor.std()) == pytest.approx(bound / 3**0.5, rel=0.2)


@pytest.mark.parametrize("init", [True, False, "gaussian", "pissa", "pissa_niter_2", "olora", "orthogonal"])
def test_what_peft_has_is_as_in_peft(init, tiny_model_dir):
    tensors = []
    for config_class in (LoraConfig, peft.LoraConfig):
        torch.manual_seed(5)
        model = get_peft_model(
            load_base(tiny_model_dir), config_class(r=RANK, target_modules=TARGETS, init_lora_weights=init)
        )
        tensors.append(model.state_dict())
    ours, theirs = tensors
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_several_adapters_of_several_kinds(tiny_model_dir, tmp_path):
    base = logits(load_base(tiny_model_dir))
    model = get_peft_model(load_base(tiny_model_dir), config_of(True), adapter_name="plain")
    assert torch.equal(logits(model), base)
    model.add_adapter("nystrom", config_of("n_lora", r=4, lora_alpha=4))
    model.add_adapter("structured", config_of("s_lora"))
    model.set_adapter("structured")
    assert torch.equal(logits(model), base)
    model.set_adapter("nystrom")
    changed = logits(model)
    assert not torch.allclose(changed, base)
    model.save_pretrained(tmp_path)

    alone = PeftModel.from_pretrained(
        load_base(tiny_model_dir), tmp_path / "nystrom", config=LoraConfig.from_pretrained(tmp_path / "nystrom")
    )
    assert torch.allclose(logits(alone), changed, atol=1e-5)
    model.delete_adapter("nystrom")
    model.set_adapter("plain")
    assert torch.equal(logits(model), base)


def test_the_configuration_survives_copies_and_files(tmp_path):
    config = config_of("n_lora", core_order="BAN", rank_pattern={"q_proj": 2})
    config.save_pretrained(tmp_path)
    for again in (
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
        LoraConfig(**config.to_dict()),
        LoraConfig.from_pretrained(tmp_path),
    ):
        assert type(again) is LoraConfig
        assert isinstance(again, peft.LoraConfig)
        assert again.to_dict() == config.to_dict()
        assert again._custom_modules == config._custom_modules
    assert json.loads((tmp_path / "adapter_config.json").read_text())["init_lora_weights"] == "n_lora"


def test_other_kinds_of_configuration_load_as_peft_loads_them(tmp_path):
    peft.AdaLoraConfig(total_step=10, target_modules=["q_proj"]).save_pretrained(tmp_path)
    assert type(LoraConfig.from_pretrained(tmp_path)) is peft.AdaLoraConfig


def test_nothing_of_peft_is_changed(tiny_model_dir, tmp_path):
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    get_peft_model(load_base(tiny_model_dir), config_of("n_lora")).save_pretrained(tmp_path)
    assert PEFT_TYPE_TO_CONFIG_MAPPING["LORA"] is peft.LoraConfig
    assert peft.LoraConfig is not LoraConfig
    with pytest.raises(ValueError, match="n_lora"):  # not loaded without its core
        PeftModel.from_pretrained(load_base(tiny_model_dir), tmp_path)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Embedding(8, 8),
        Conv1D(8, 8),
        with_weight(nn.Linear(8, 8), nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)),
        with_weight(nn.Linear(8, 8), QuantisedParameter(torch.zeros(8, 8))),
    ],
)
def test_layers_that_are_not_plainly_linear_are_left_to_peft(layer):
    model = nn.ModuleDict({"layer": layer})
    options: dict[str, Any] = {"r": 2, "target_modules": ["layer"]}
    for init in ("n_lora", "s_lora"):
        with pytest.raises(UserError, match=f"layer: init_lora_weights='{init}' takes linear layers"):
            get_peft_model(copy.deepcopy(model), LoraConfig(init_lora_weights=init, **options))
    ours, theirs = (
        get_peft_model(copy.deepcopy(model), config_class(**options)) for config_class in (LoraConfig, peft.LoraConfig)
    )
    assert [type(module) for module in ours.modules()] == [type(module) for module in theirs.modules()]


def test_it_is_no_method_and_costs_nothing_to_import():
    code = (
        "import sys, stages.adapters, stages.adapters.drop_in;"
        "assert 'drop_in' not in stages.adapters.methods();"
        "assert not {'torch', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=two_processes.ROOT)
    assert "drop_in" not in adapters.methods()


# ---- under ZeRO-3, in two processes


def main(model_dir: Path, out: Path) -> None:
    """The script again, with a base that is divided from the start and DeepSpeed's engine around the model."""
    import deepspeed
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    rank = two_processes.join()
    settings = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    divided = HfDeepSpeedConfig(settings)  # as transformers' Trainer makes one
    model = get_peft_model(load_base(model_dir), config_of("n_lora"))
    del divided
    started = {name: value.detach().clone() for name, value in model.named_parameters() if "lora_" in name}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    losses = []
    for _ in range(NUM_STEPS):
        loss = engine(input_ids=samples(), labels=samples()).loss
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        said = logits(engine)
    trained = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    with deepspeed.zero.GatheredParameters(trained):
        if rank == 0:
            model.save_pretrained(out)
    torch.save({"started": started, "losses": losses, "logits": said}, out / f"{rank}.pt")


@pytest.mark.slow
def test_the_script_under_zero_3(tmp_path):
    model_dir = tmp_path / "model"
    write_tiny_model(model_dir)
    two_processes.run("tests.stages.adapters.test_drop_in", str(model_dir), str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    model = get_peft_model(load_base(model_dir), config_of("n_lora"))
    expected = {name: value.detach() for name, value in model.named_parameters() if "lora_" in name}
    assert expected.keys() == first["started"].keys()
    for name, value in expected.items():
        assert torch.equal(first["started"][name], value)
        assert torch.equal(second["started"][name], value)
    assert first["losses"] == pytest.approx(train(model), rel=1e-3)
    assert first["losses"][-1] < first["losses"][0] - 0.1
    again = PeftModel.from_pretrained(load_base(model_dir), tmp_path, config=LoraConfig.from_pretrained(tmp_path))
    assert torch.allclose(logits(again), first["logits"], atol=1e-5)
    assert torch.equal(first["logits"], second["logits"])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
