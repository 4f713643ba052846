"""The loop's options in real runs of two processes, all in one launch: packing, evaluation, the best weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline.stage import Resources, Workspace
from stages import train
from stages._adaptation.probe import load_adapted
from stages._training import launch
from stages._training.batches import Order, TokenFile
from stages._training.checkpoints import Position
from stages._training.evaluation import is_due, is_out_of_patience, judged
from stages._training.packing import pack
from stages._training.spec import CHECKPOINTS_DIR, TrainSpec
from tests.stages.conftest import artifact
from tests.stages.test_resume import plain_loss
from tests.stages.test_training_methods import losses, run_all, start

RESOURCES = Resources(device="cpu", num_processes=2, num_threads=1)

# ---- when a run ends


def test_patience_counts_evaluations_without_enough_improvement():
    config = train.Config.model_validate(
        {"evaluate_every_steps": 2, "early_stopping": {"patience": 2, "min_improvement": 0.1}}
    )
    position, seen = Position(), []
    for step, loss in enumerate([2.0, 1.5, 1.45, 1.6, 1.0], start=1):
        position = judged(position.after_step(10, 1.0), loss, config)
        seen.append((position.best_step, position.evaluations_without_improvement))
        assert is_out_of_patience(config, position) == (step == 4)
    assert seen == [(1, 0), (2, 0), (3, 1), (3, 2), (5, 0)]
    assert position.best_validation_loss == position.validation_loss == 1.0
    assert position.after_step(10, 1.0).validation_loss is None
    assert [step for step in range(1, 8) if is_due(config, step, 7)] == [2, 4, 6, 7]
    assert not is_due(train.Config(), 7, 7)


def test_what_needs_evaluations_says_so():
    with pytest.raises(ValidationError, match="early_stopping: found without evaluate_every_steps"):
        train.Config.model_validate({"early_stopping": {"patience": 1}})
    with pytest.raises(ValidationError, match="result: best: found without evaluate_every_steps"):
        train.Config(result="best")
    with pytest.raises(ValidationError, match=r"warmup_steps: found 3 with warmup_ratio 0\.1, expected one of them"):
        train.Config(warmup_steps=3, warmup_ratio=0.1)


def test_without_a_validation_split_nothing_is_begun(tmp_path):
    (tmp_path / "manifest.json").write_text('{"metrics": {"length_max": 30}}')
    known = {"tokens": artifact(tmp_path, "tokenize")}
    (line,) = train.preflight(train.Config(evaluate_every_steps=5), RESOURCES, known)
    assert "train.evaluate_every_steps: there is no validation split" in line
    (tmp_path / "validation.safetensors").touch()
    assert train.preflight(train.Config(evaluate_every_steps=5), RESOURCES, known) == []


# ---- real runs

PADDED = {"learning_rate": 1e-3, "global_batch_size": 8, "per_device_batch_size": 2, "max_steps": 6, "num_epochs": 2}
PACKED = {**PADDED, "packing": True, "pack_length": 40}
UNSTEADY = {"learning_rate": 0.05, "schedule": "constant", "warmup_steps": 0, "max_steps": 30, "num_epochs": 6}
STOPPING = {"evaluate_every_steps": 1, "early_stopping": {"patience": 3}, "result": "best", "checkpoint_every_steps": 4}
RUNS: dict[str, dict[str, Any]] = {
    "padded": PADDED,
    **{f"packed{stage}": {**PACKED, "zero_stage": stage} for stage in (0, 2, 3)},
    **{f"best{stage}": {**PACKED, **UNSTEADY, **STOPPING, "zero_stage": stage} for stage in (0, 2, 3)},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model_dir, tiny_tokens_dir) -> Path:
    """A folder with a folder for every run, and for one that goes on from a checkpoint of another."""
    root = tmp_path_factory.mktemp("loop")
    resources = RESOURCES.model_copy(update={"store_dir": root, "trackers": ("tensorboard",)})
    inputs = start(root / "init", {"method": "nlora", "rank": 4}, tiny_model_dir, tiny_tokens_dir)

    def spec(name: str, options: dict[str, Any]) -> TrainSpec:
        (root / name).mkdir()
        return launch.make_spec(train.Config.model_validate(options), inputs, Workspace(root / name), resources)

    todo: list[tuple[TrainSpec, Path | None]] = [(spec(name, options), None) for name, options in RUNS.items()]
    checkpoint = root / "best2" / CHECKPOINTS_DIR / "oldest"
    run_all(root / "runs.json", [*todo, (spec("resumed", RUNS["best2"]), checkpoint)])
    return root


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_packed_runs_are_the_unpacked_run(made, tiny_tokens_dir):
    """With accumulation, in steps of different numbers of passes, at ZeRO stages 0, 2, 3: equal up to rounding."""
    lengths = TokenFile(tiny_tokens_dir / "train.safetensors").lengths
    order = Order(lengths, 8, 0, group_by_length=False)
    assert {len(list(pack(order.rows(step), lengths, 40, 0, 2))) for step in range(6)} == {2, 3}
    for name in ("packed0", "packed2", "packed3"):
        assert losses(made / name) == pytest.approx(losses(made / "padded"), rel=1e-5), name
        for tensor, value in weights(made / name).items():
            expected = weights(made / "padded")[tensor]
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-3, msg=f"{name} {tensor}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["best0", "best2", "best3"])
def test_early_stopping_leaves_the_best_weights(name, made, tiny_model_dir, tiny_tokens_dir):
    result = json.loads((made / name / ".result.json").read_text())
    measured = [row["validation_loss"] for row in rows(made / name)]
    best = int(np.argmin(measured))
    assert result["best_step"] == best + 1
    assert result["validation_loss_end"] == result["best_validation_loss"] == measured[best]
    assert result["num_steps"] == len(measured) == best + 1 + 3 < 30
    adapted = load_adapted(tiny_model_dir, made / name, start_dir=made / "init")
    tokens = TokenFile(tiny_tokens_dir / "validation.safetensors")
    assert plain_loss(adapted, tokens) == pytest.approx(measured[best], abs=1e-4) != measured[-1]


@pytest.mark.slow
def test_what_early_stopping_knows_survives_a_resume(made):
    assert losses(made / "resumed") == losses(made / "best2")
    measured = [[row["validation_loss"] for row in rows(made / name)] for name in ("best2", "resumed")]
    assert measured[0] == measured[1]
    for tensor, value in weights(made / "resumed").items():
        assert torch.equal(value, weights(made / "best2")[tensor]), tensor


@pytest.mark.slow
def test_trackers_get_every_row(made):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in ("padded", "resumed"):
        events = EventAccumulator(str(made / "trackers" / "tensorboard" / name)).Reload()
        scalars = [(event.step, event.value) for event in events.Scalars("loss")]
        first = 0 if name == "padded" else 5
        assert scalars == [(row["step"], pytest.approx(row["loss"])) for row in rows(made / name)][first:]
