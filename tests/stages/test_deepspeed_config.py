"""train: DeepSpeed's configuration from the typed recipe, what is refused, and DeepSpeed's own opinion of all of it."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import recipe
from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.stage import Resources
from stages import train
from stages._training import availability, layout, requirements, validation
from stages._training.deepspeed_config import deepspeed_config
from stages.workflow import Recipe

RECIPES = Path(__file__).parents[2] / "recipes"
GOLDEN = Path(__file__).parent / "golden"
GPU = Resources(device="cuda", num_processes=4, offload_dir=Path("/scratch"))


def shown(config: train.Config, resources: Resources = GPU) -> dict[str, Any]:
    return train.shown(config, resources)["deepspeed"]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("quickstart", []),
        ("mistral_nlora", ["train.zero_stage=2", "train.offload_optimizer=cpu", "train.dtype=bfloat16"]),
        (
            "llama2_nlora",
            [
                *["train.zero_stage=3", "train.dtype=float16", "train.optimizer=rmsprop"],
                *["train.offload_optimizer=nvme", "train.offload_parameters=nvme"],
                "train.deepspeed={zero_optimization: {offload_param: {buffer_size: 200000}}, prescale_gradients: true}",
            ],
        ),
    ],
)
def test_golden(name, overrides):
    """What a recipe's training gets on four GPUs, kept as a file: a change of it is seen in review."""
    config = recipe.load(RECIPES / f"{name}.yaml", Recipe, overrides).train
    assert config
    text = json.dumps(shown(config), indent=2) + "\n"
    assert text == (GOLDEN / f"deepspeed_{name}.json").read_text()


def combinations() -> Iterator[dict[str, Any]]:
    """Every stage, offload, dtype and optimizer that the recipe lets through."""
    choices = itertools.product(
        (0, 1, 2, 3),
        ("none", "cpu", "nvme"),
        ("none", "cpu", "nvme"),
        ("float32", "bfloat16", "float16"),
        ("adamw", "rmsprop", "adamw_8bit"),
    )
    names = ("zero_stage", "offload_optimizer", "offload_parameters", "dtype", "optimizer")
    for choice in choices:
        options = dict(zip(names, choice, strict=True))
        try:
            train.Config.model_validate(options)
        except ValidationError:
            continue
        yield options


def test_deepspeed_takes_every_combination():
    """As it would be on a CPU and on GPUs. No GPU is needed to build its configuration object."""
    seen = list(combinations())
    assert len(seen) == 6 + 2 * (9 + 6) + 3 * (9 + 2 * 6)  # by stage; 8-bit states are not offloaded
    for options in seen:
        for device in ("cpu", "cuda"):
            config = train.Config.model_validate({**options, "global_batch_size": 8, "per_device_batch_size": 1})
            settings = deepspeed_config(config, layout.layout(config, 2), device, Path("/scratch"))
            complaints = [line for line in validation.check(settings) if "async_io" not in line]
            assert complaints == [], (options, device)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"zero_stage": 0, "offload_optimizer": "cpu"}, "offload_optimizer: found cpu with zero_stage: 0"),
        ({"zero_stage": 0, "dtype": "float16"}, "dtype: found float16 with zero_stage: 0"),
        ({"attention": "eager", "packing": True}, "attention: found eager with packing"),
        ({"offload_optimizer": "nvme"}, "offload_optimizer: found nvme with zero_stage: 2, expected 3"),
        ({"offload_parameters": "cpu"}, "offload_parameters: found cpu with zero_stage: 2, expected zero_stage: 3"),
        ({"optimizer": "adamw_8bit", "offload_optimizer": "cpu"}, "offload_optimizer: found cpu with optimizer"),
        ({"rmsprop_alpha": 0.9}, "rmsprop_alpha: found with optimizer: adamw, where it means nothing"),
        ({"optimizer": "rmsprop", "adam_beta1": 0.8}, "adam_beta1: found with optimizer: rmsprop"),
        ({"loss_scale_window": 10}, "loss_scale_window: found with dtype: float32"),
        (
            {"dtype": "float16", "loss_scale": 128.0, "initial_loss_scale_power": 8},
            "initial_loss_scale_power: found with loss_scale: 128.0",
        ),
        ({"attention": "flash_attention_2"}, "attention: found flash_attention_2 with dtype: float32"),
        ({"compile": True, "zero_stage": 3}, "compile: found true with zero_stage: 3"),
        ({"deepspeed": {"train_batch_size": 8}}, "deepspeed.train_batch_size: .* use train.global_batch_size"),
        ({"deepspeed": {"gradient_clipping": 1.0}}, "deepspeed.gradient_clipping: .* use train.max_gradient_norm"),
        ({"deepspeed": {"optimizer": {"type": "Adam"}}}, "deepspeed.optimizer: .* use train.optimizer"),
        ({"deepspeed": {"scheduler": {}}}, "deepspeed.scheduler: .* use train.schedule"),
        ({"deepspeed": {"fp16": {"enabled": True}}}, "deepspeed.fp16: .* use train.dtype"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "deepspeed.zero_optimization.stage: .* use train.zero_st"),
        (
            {"deepspeed": {"zero_optimization": {"offload_param": {"device": "cpu"}}}},
            "deepspeed.zero_optimization.offload_param.device: .* use train.offload_parameters",
        ),
        ({"deepspeed": {"zero_optimization": True}}, "deepspeed.zero_optimization: found True, expected keys below it"),
    ],
)
def test_contradictions_are_refused(options, line):
    with pytest.raises(ValidationError, match=line):
        train.Config.model_validate(options)


def test_a_method_that_works_on_adamws_states_keeps_adamw():
    adapter = "init.adapter={method: relora, rank: 4, restart_every: 5}"
    with pytest.raises(UserError, match=r"train\.optimizer: found rmsprop with method relora"):
        recipe.load(RECIPES / "quickstart.yaml", Recipe, [adapter, "train.optimizer=rmsprop"])


def test_raw_keys_are_merged_and_hashed_only_when_there():
    raw: dict[str, Any] = {
        "zero_optimization": {"reduce_bucket_size": 1000, "overlap_comm": False},
        "prescale_gradients": True,
    }
    settings = shown(train.Config(deepspeed=raw))
    assert settings["zero_optimization"] == {"stage": 2, "overlap_comm": False, "reduce_bucket_size": 1000}
    assert settings["prescale_gradients"] is True
    assert train.Config(deepspeed=raw).canonical()["deepspeed"] == raw
    assert train.Config().canonical() == {}


def test_deepspeeds_own_complaints_are_one_line_each():
    def complaints(raw: dict[str, Any]) -> list[str]:
        config = train.Config(deepspeed=raw)
        return list(validation.check(deepspeed_config(config, layout.layout(config, 2), "cpu", None)))

    assert complaints({"zero_optimisation": {"stage": 1}}) == [
        "train.deepspeed: unknown key 'zero_optimisation'; did you mean 'zero_optimization'?"
    ]
    (line,) = complaints({"zero_optimization": {"reduce_buket_size": 1}})
    assert line.startswith("train.deepspeed: reduce_buket_size: found 1: Extra inputs are not permitted")
    (line,) = complaints({"compression_training": {}})
    assert "removed" in line


def test_preflight_asks_deepspeed():
    config = train.Config(deepspeed={"zero_optimization": {"reduce_bucket_size": -1}}, learning_rate=1e-3)
    (line,) = train.preflight(config, Resources(device="cpu", num_processes=2), {})
    assert line.startswith("train.deepspeed: reduce_bucket_size: found -1")


def test_what_this_machine_has_not_is_said(monkeypatch, tmp_path):
    cpu = Resources(device="cpu")

    def lines(options: dict[str, Any], resources: Resources = cpu) -> list[str]:
        return availability.problems(train.Config.model_validate(options), resources)

    flash = {"attention": "flash_attention_2", "dtype": "bfloat16"}
    assert lines({}) == []
    assert lines({"dtype": "float16"}) == [
        "train.dtype: got float16 on a CPU, expected a GPU; use bfloat16 or float32 here"
    ]
    assert lines(flash)[0].startswith("train.attention: got flash_attention_2 on a CPU")
    assert lines({"liger": True})[0].startswith("train.liger: got true on a CPU")
    monkeypatch.setattr(availability, "_installed", lambda _module: False)
    assert "needs the package flash-attn" in lines(flash, GPU)[0]
    assert "needs the package liger-kernel" in lines({"liger": True}, GPU)[0]
    assert "needs the package bitsandbytes" in lines({"optimizer": "adamw_8bit"})[0]
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "needs a C++ compiler" in lines({"compile": True})[0]
    nvme = {"zero_stage": 3, "offload_optimizer": "nvme"}
    assert "set resources.offload_dir" in lines(nvme)[0]
    assert lines(nvme, cpu.model_copy(update={"offload_dir": tmp_path})) == []
    assert "is no folder" in lines(nvme, cpu.model_copy(update={"offload_dir": tmp_path / "none"}))[0]


def test_what_is_kept_elsewhere_or_smaller_is_not_counted(tmp_path):
    size = requirements.Size(7_000_000_000, 7_000_000_000, num_activations=2_000_000)
    shared = layout.Layout(4, 1, 1)

    def need(**options: Any) -> requirements.Need:
        return requirements.need(train.Config.model_validate({"zero_stage": 3, **options}), shared, size)

    everything = need()
    assert everything.memory - need(offload_optimizer="cpu").memory == need(offload_optimizer="cpu").host_memory == 84e9
    assert need(offload_parameters="nvme", dtype="float16").files == 14e9
    assert everything.memory - need(optimizer="rmsprop").memory == pytest.approx(28e9)
    assert everything.disk - need(optimizer="adamw_8bit").disk == pytest.approx(7e9 * 5.97, rel=1e-3)
    assert everything.memory - need(gradient_checkpointing=True).memory == pytest.approx(4 * 512 * 2e6 * 4 * 1.5 * 0.9)
    lines = requirements.shortages(train.Config(), GPU, requirements.Need(0, 0, host_memory=1e18), 4)
    assert "offload to cpu needs about" in lines[0]
    here = GPU.model_copy(update={"offload_dir": tmp_path})
    lines = requirements.shortages(train.Config(), here, requirements.Need(0, 0, files=1e18), 4)
    assert "offload to nvme needs about" in lines[0]


def test_plan_shows_it(capsys):
    assert main(["plan", str(RECIPES / "quickstart.yaml"), "--show", "deepspeed"]) == 0
    (name, settings), *_ = json.loads(capsys.readouterr().out).items()
    assert name == "math/train"
    assert settings["train_batch_size"] == 8
    assert main(["plan", str(RECIPES / "quickstart.yaml"), "--show", "deepsped"]) == 2
    assert "expected one of what quickstart can show: deepspeed" in capsys.readouterr().err


def test_a_batch_that_cannot_be_shared_out_is_not_shown():
    with pytest.raises(UserError, match="use 4 or 8"):
        train.shown(train.Config(global_batch_size=6), GPU)
