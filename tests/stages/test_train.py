"""train: order and sharing of samples, the schedule, and real DeepSpeed runs that are killed, stopped and resumed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import init_adapter, train
from stages._training import layout, requirements
from stages._training.batches import Order, TokenFile, share
from stages._training.schedule import learning_rate_factor, num_warmup_steps
from tests.stages.conftest import artifact

RESOURCES = Resources(device="cpu", num_processes=2, num_threads=1)
ADAPTER = {"method": "nlora", "rank": 8, "residual": "subtract"}


# ---- what each step sees


def test_uneven_batches_are_refused_with_sizes_that_work():
    config = train.Config(global_batch_size=6, per_device_batch_size=2)
    (line,) = layout.problems(config, 4)
    assert "use 4 or 8" in line
    assert "1 or 2 or 3 or 6" in line
    (line,) = layout.problems(config, 2)
    assert "use 1 or 3" in line
    assert layout.problems(config, 3) == []
    assert layout.layout(config, 3) == (3, 1, 2)
    assert layout.layout(config.model_copy(update={"per_device_batch_size": None}), 2) == (2, 1, 3)
    assert layout.layout(config.model_copy(update={"per_device_batch_size": 1}), 2) == (2, 3, 1)
    assert train.preflight(config, RESOURCES, {})
    assert train.size_problems(train.Config(), RESOURCES, 10**13, None)


@pytest.mark.parametrize("group_by_length", [False, True])
def test_order_is_a_function_of_seed_and_step(group_by_length):
    lengths = np.random.default_rng(0).integers(5, 100, 103)
    order = Order(lengths, 4, 7, group_by_length)
    assert order.steps_per_epoch == 25
    epoch = [order.rows(step) for step in range(25)]
    assert len(set(np.concatenate(epoch).tolist())) == 100  # nothing twice
    again = Order(lengths, 4, 7, group_by_length)
    assert np.array_equal(again.rows(30), order.rows(30))
    assert np.array_equal(again.rows(3), epoch[3])
    assert not np.array_equal(Order(lengths, 4, 8, group_by_length).rows(3), epoch[3])
    assert not np.array_equal(order.rows(25), epoch[0])
    spread = np.mean([np.ptp(lengths[rows]) for rows in epoch])
    assert spread < 20 if group_by_length else spread > 40


def test_grouping_by_length_saves_padding():
    lengths = np.random.default_rng(0).integers(5, 100, 400)

    def padding(group_by_length: bool) -> float:
        order = Order(lengths, 8, 7, group_by_length)
        passes = [own for step in range(order.steps_per_epoch) for own in share(order.rows(step), lengths, 8, 0, 1)]
        padded = sum(len(own) * lengths[own].max() for own in passes)
        return 1 - sum(lengths[own].sum() for own in passes) / padded

    assert padding(group_by_length=False) > 0.3
    assert padding(group_by_length=True) < 0.05


def test_more_samples_a_step_than_there_are():
    with pytest.raises(UserError, match="must be <= the 3 training samples"):
        Order(np.array([5, 5, 5]), 4, 0, False)


@pytest.mark.parametrize("num_processes", [1, 2, 4])
@pytest.mark.parametrize("per_device", [1, 2])
def test_every_sample_is_shared_out_once(num_processes, per_device):
    rows, lengths = np.array([3, 1, 0, 2, 7, 6, 5, 4]), np.arange(10, 90, 10)
    passes = [list(share(rows, lengths, per_device, rank, num_processes)) for rank in range(num_processes)]
    assert len({len(own) for own in passes}) == 1
    assert sorted(np.concatenate([np.concatenate(own) for own in passes]).tolist()) == list(range(8))
    widths = [sum(lengths[own].max() for own in rank) for rank in passes]
    assert len(passes[0]) == 1 or max(widths) - min(widths) <= 10 * per_device  # equal work


def test_batches_pad_on_the_right(tiny_tokens_dir):
    tokens = TokenFile(tiny_tokens_dir / "train.safetensors")
    rows = np.array([0, 1, 2])
    batch = tokens.batch(rows)
    for number in rows:
        length = tokens.lengths[number]
        start = tokens.offsets[number]
        assert batch.input_ids[number, :length].tolist() == tokens.input_ids[start : start + length].tolist()
        assert not batch.input_ids[number, length:].any()
        assert not batch.is_target[number, length:].any()
    assert batch.sample_lengths is None
    assert int(batch.is_target.sum()) == tokens.num_targets(rows)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedule(schedule):
    assert num_warmup_steps(train.Config(warmup_ratio=0.095), 100) == 10
    assert num_warmup_steps(train.Config(warmup_steps=7), 100) == 7
    rates = [learning_rate_factor(step, 100, 10, schedule) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert 0 < rates[0] < 0.1
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == 1.0 if schedule == "constant" else 0 < rates[-1] < 0.02
    assert learning_rate_factor(0, 1, 1, schedule) > 0
    assert learning_rate_factor(0, 100, 0, schedule) == 1.0


def test_what_does_not_fit_is_said(tmp_path):
    config = train.Config(zero_stage=2, global_batch_size=4)
    size, shared = requirements.Size(7_000_000_000, 168_000_000), layout.layout(config, 4)
    needed = requirements.need(config, shared, size)
    assert 4 * 28e9 < needed.memory < 4 * 31e9
    assert requirements.need(train.Config(zero_stage=3), shared, size).memory < needed.memory / 3
    (line,) = requirements.shortages(config, RESOURCES, requirements.Need(1e15, 0), 4)
    assert "higher zero_stage" in line
    (line,) = requirements.shortages(config, Resources(device="cpu", store_dir=tmp_path), requirements.Need(0, 1e18), 4)
    assert "checkpoints need" in line


# ---- real runs


@pytest.fixture(scope="module")
def given(tmp_path_factory, tiny_model_dir, tiny_tokens_dir) -> train.Inputs:
    """The tiny model with a started NLoRA adapter."""
    return start_adapter(tmp_path_factory.mktemp("init"), tiny_model_dir, tiny_tokens_dir, ADAPTER)


def start_adapter(folder: Path, model_dir: Path, tokens_dir: Path, adapter: dict) -> train.Inputs:
    model = artifact(model_dir, "prepare_model")
    init_adapter.run(
        init_adapter.Config.model_validate({"adapter": adapter, "probe": False}),
        init_adapter.Inputs(model=model),
        Workspace(folder),
        RESOURCES,
    )
    return train.Inputs(model=model, tokens=artifact(tokens_dir, "tokenize"), adapter=artifact(folder, "init_adapter"))


def config(**options) -> train.Config:
    values = {"learning_rate": 1e-2, "global_batch_size": 4, "per_device_batch_size": 1, "checkpoint_every_steps": 5}
    return train.Config.model_validate({**values, "max_steps": 60, "num_epochs": 6, **options})


def folder(root: Path, name: str) -> Workspace:
    path = root / name
    path.mkdir()
    return Workspace(path)


def weights(out: Workspace) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter_model.safetensors")


def losses(out: Workspace) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_equal_runs(first: Workspace, second: Workspace) -> None:
    """Bit for bit: every loss and every final weight."""
    assert losses(first) == losses(second)
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(second)[name]), name


@pytest.mark.slow
def test_bfloat16_and_inttune(tmp_path, tiny_model_dir, tiny_tokens_dir):
    adapter = {"method": "inttune", "rank": 8, "residual": "subtract"}
    init = tmp_path / "init"
    init.mkdir()
    inputs = start_adapter(init, tiny_model_dir, tiny_tokens_dir, adapter)
    out = folder(tmp_path, "out")
    metrics = train.run(config(dtype="bfloat16", max_steps=10, group_by_length=True), inputs, out, RESOURCES)
    assert metrics["trainable_parameters"] == 14 * 8 * 8
    before, after = load_file(init / "adapter_model.safetensors"), weights(out)
    for name, tensor in after.items():
        assert tensor.dtype == torch.float32
        trained = not torch.equal(tensor, before[name].bfloat16().float()) and not torch.equal(tensor, before[name])
        assert trained == ("lora_N" in name), name


def test_artifacts_are_the_only_inputs():
    assert set(train.Inputs.model_fields) == {"model", "tokens", "adapter"}
    assert all(field.annotation is Artifact for field in train.Inputs.model_fields.values())
