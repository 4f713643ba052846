"""train: real runs with offload, float16, recomputed activations and each optimizer, against runs without."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from pipeline.stage import Workspace
from stages import train
from stages._adaptation.probe import load_adapted
from stages._training import acceleration, launch
from stages._training.batches import Order, TokenFile
from stages._training.schedule import learning_rate_factor
from stages._training.spec import CHECKPOINTS_DIR
from tests.stages.test_training_methods import RESOURCES, losses, run_all, start, written

NUM_STEPS, RESUMED_AT = 5, 2
OFFLOADED = {"zero_stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"}
OVERFLOWS = {"dtype": "float16", "initial_loss_scale_power": 24}
"""A loss scale so high that the first gradients overflow."""
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "offloaded 2": {"offload_optimizer": "cpu"},
    "offloaded 3": OFFLOADED,
    "recomputed 2": {"gradient_checkpointing": True},
    "recomputed 3": {"gradient_checkpointing": True, "zero_stage": 3},
    "eager": {"attention": "eager"},
    "rmsprop": {"optimizer": "rmsprop"},
    "8 bits": {"optimizer": "adamw_8bit"},
    "half 2": OVERFLOWS,
    "half 3": {**OVERFLOWS, "zero_stage": 3},
}
RESUMED = ("offloaded 3", "8 bits", "half 3")


class Runs(NamedTuple):
    inputs: train.Inputs
    root: Path

    def losses(self, name: str) -> list[float]:
        return losses(self.root / name)


def config(options: dict[str, Any]) -> train.Config:
    sizes = {"global_batch_size": 4, "per_device_batch_size": 1, "max_steps": NUM_STEPS}
    return train.Config.model_validate(
        {"learning_rate": 1e-2, "checkpoint_every_steps": RESUMED_AT, **sizes, **options}
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model_dir, tiny_tokens_dir) -> Runs:
    """All cases, from one launch of two processes."""
    root = tmp_path_factory.mktemp("options")
    adapter = {"method": "nlora", "rank": 8}
    inputs = start(root / "init", adapter, tiny_model_dir, tiny_tokens_dir)
    todo: list[tuple[Any, Path | None]] = []
    for name, options in CASES.items():
        for out in [root / name, *([root / f"{name} resumed"] if name in RESUMED else [])]:
            out.mkdir()
            spec = launch.make_spec(config(options), inputs, Workspace(out), RESOURCES)
            checkpoint = root / name / CHECKPOINTS_DIR / f"step-{RESUMED_AT:08d}"
            todo.append((spec, checkpoint if out.name.endswith("resumed") else None))
    run_all(root / "runs.json", todo)
    return Runs(inputs, root)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["offloaded 2", "offloaded 3", "recomputed 2", "recomputed 3", "eager"])
def test_how_it_is_computed_changes_only_rounding(name, runs):
    assert len(runs.losses("plain")) == NUM_STEPS
    assert runs.losses(name) == pytest.approx(runs.losses("plain"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["half 2", "half 3", "8 bits"])
def test_fewer_bits_change_little(name, runs):
    assert runs.losses(name) == pytest.approx(runs.losses("plain"), rel=1e-3)
    assert runs.losses(name) != runs.losses("plain")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["half 2", "half 3"])
def test_what_overflows_is_repeated_at_a_lower_scale(name, runs):
    rows = [json.loads(line) for line in (runs.root / name / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    scales = [row["loss_scale"] for row in rows]
    assert scales == sorted(scales, reverse=True)
    assert 1 < scales[-1] < 2**24
    assert all(np.isfinite(row["grad_norm"]) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_it_resumes_bit_for_bit(name, runs):
    assert runs.losses(f"{name} resumed") == runs.losses(name)
    assert written(runs.root / f"{name} resumed") == written(runs.root / name)


@pytest.mark.slow
def test_rmsprop_is_pytorchs(runs):
    """Against a loop as anyone would write it: one process, whole batches, the loss averaged over all targets."""
    chosen = config(CASES["rmsprop"])
    given = runs.inputs
    model = load_adapted(given.model.path, given.adapter.path, start_dir=given.adapter.path)
    factors = [parameter.requires_grad_() for name, parameter in model.named_parameters() if ".lora_" in name]
    optimizer = torch.optim.RMSprop(factors, lr=chosen.learning_rate)
    tokens = TokenFile(given.tokens.path / "train.safetensors")
    order = Order(tokens.lengths, 4, 0, group_by_length=False)
    expected = []
    for step in range(NUM_STEPS):
        (group,) = optimizer.param_groups
        group["lr"] = chosen.learning_rate * learning_rate_factor(step, NUM_STEPS, 1, "cosine")
        batch = tokens.batch(order.rows(step))
        logits = model(input_ids=batch.input_ids).logits[:, :-1]
        loss = cross_entropy(logits[batch.is_target[:, 1:]], batch.input_ids[batch.is_target])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimizer.step()
        expected.append(float(loss))
    assert runs.losses("rmsprop") == pytest.approx(expected, rel=1e-4)
    assert runs.losses("rmsprop")[2:] != pytest.approx(runs.losses("plain")[2:], rel=1e-2)


def test_recomputation_keeps_less(tiny_model_dir):
    def kept_bytes(is_on: bool) -> int:
        model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
        acceleration.prepare(model.train(), train.Config(gradient_checkpointing=is_on))
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = model.model(input_ids=torch.arange(64)[None]).last_hidden_state
        weights = {weight.data_ptr() for weight in model.parameters()}
        assert hidden.requires_grad
        return sum(size for place, size in sizes.items() if place not in weights)

    assert kept_bytes(True) < kept_bytes(False) / 3


def test_liger_and_layers_to_compile_must_be_there():
    assert acceleration.attention(train.Config(), "cuda") is None  # float32
    assert acceleration.attention(train.Config(attention="eager"), "cpu") == "eager"
    with pytest.raises(Exception, match="found no layers in Linear to compile"):
        acceleration.compile_layers(torch.nn.Linear(2, 2))
