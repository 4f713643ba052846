"""Metrics in TensorBoard, wandb and MLflow, read back with the packages themselves; FLOPs of a step."""

import importlib
import logging
import os
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from pipeline.stage import Resources
from stages import train
from stages._training import availability
from stages._training.flops import model_size, peak_flops
from stages._training.trackers import Trackers
from tests.setup.test_locks import direct

ROOT = Path(__file__).parents[2]


def row(step: int) -> dict:
    return {"step": step, "loss": 1 / step, "peak_memory_bytes": [10 * step, 20 * step]}


def run_in_two_attempts(name: str, folder: Path) -> None:
    """Steps 1 to 5, then again from the checkpoint after step 3 to 8."""
    for first, last in ((0, 5), (3, 8)):
        trackers = Trackers(
            (name,), "0123456789abcdef", folder, {"learning_rate": 0.1, "early_stopping": {"patience": 1}}
        )
        trackers.resume(first)
        for step in range(first + 1, last + 1):
            trackers.log(row(step))
        trackers.close()


@pytest.fixture(autouse=True)
def no_failure(caplog):
    with caplog.at_level(logging.WARNING, "stages._training.trackers"):
        yield
    assert "failed and gets no more" not in caplog.text


def test_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_in_two_attempts("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard" / "0123456789abcdef")).Reload()
    assert events.Tags()["scalars"] == ["loss", "peak_memory_bytes/rank0", "peak_memory_bytes/rank1"]
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))
    assert [event.value for event in events.Scalars("peak_memory_bytes/rank1")] == [20.0 * step for step in range(1, 9)]


def test_wandb_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_in_two_attempts("wandb", tmp_path)
    expected = [[1, 2, 3, 4, 5], [4, 5, 6, 7, 8]]  # of one run, whose server takes a step once
    deadline = time.monotonic() + 60
    while wandb_steps(tmp_path) != expected and time.monotonic() < deadline:
        time.sleep(0.2)  # a process of its own writes the files
    assert wandb_steps(tmp_path) == expected


def wandb_steps(folder: Path) -> list[list[int]]:
    """Steps of each attempt, whose losses are what was logged."""
    wandb_internal_pb2: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")  # has no types
    attempts = []
    for file in folder.glob("wandb/offline-run-*-0123456789abcdef/*.wandb"):
        records = [wandb_internal_pb2.Record.FromString(data) for data in wandb_records(file)]
        rows = [each.history for each in records if each.HasField("history")]
        values = [{item.key or item.nested_key[0]: float(item.value_json) for item in each.item} for each in rows]
        assert all(each["loss"] == pytest.approx(1 / each["_step"]) for each in values)
        attempts.append([int(each["_step"]) for each in values])
    return sorted(attempts)


def wandb_records(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format after 7 bytes of its own, here within one block.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    data, start = file.read_bytes(), 7
    assert len(data) < 2**15
    while start < len(data):
        length, kind = struct.unpack_from("<HB", data, start + 4)
        assert kind == 1, "a record of several parts"
        yield data[start + 7 : start + 7 + length]
        start += 7 + length


@pytest.mark.slow
def test_mlflow(tmp_path):
    """In a process that finds it: it is in no lock."""
    (wanted,) = (str(each) for each in direct("optional.in") if each.name == "mlflow-skinny")
    packages, uv = tmp_path / "packages", Path(sys.prefix) / "bin" / "uv"
    subprocess.run([uv, "pip", "install", "--quiet", "--target", packages, wanted], check=True)
    settings = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_TRACKING_URI": (tmp_path / "runs").as_uri()}
    environment = {**os.environ, **settings, "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}
    code = f"from tests.stages import test_trackers; test_trackers.use_mlflow({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def use_mlflow(folder: str) -> None:
    mlflow = importlib.import_module("mlflow")
    run_in_two_attempts("mlflow", Path(folder))
    client = mlflow.MlflowClient()
    (experiment,) = [each for each in client.search_experiments() if each.name == "nlora-pipeline"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["learning_rate"] == "0.1"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert Counter(each.step for each in history) == dict.fromkeys(range(1, 9), 1)


def test_what_a_tracker_needs_is_said_before(monkeypatch, tmp_path):
    monkeypatch.setattr(availability, "_installed", lambda module: module != "wandb")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    lines = train.preflight(train.Config(), Resources(device="cpu", trackers=("tensorboard", "wandb", "mlflow")), {})
    assert [line for line in lines if "trackers" in line] == [
        "resources.trackers: got wandb, which needs the package wandb; install it, or leave wandb out",
        "resources.trackers: got mlflow without a server; set MLFLOW_TRACKING_URI, or leave mlflow out",
    ]


# ---- model FLOPs


def test_flops_of_a_step_are_counted_by_hand(tiny_model_dir):
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    in_matrices = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3)  # q, o; k, v of half the heads; gate, up, down
    lengths, pairs = np.array([3, 5]), 6 + 15
    for products, is_trained in ((6, True), (4, False)):
        size = model_size(model.requires_grad_(is_trained))
        assert size
        expected = products * in_matrices * 8 + products * 64 * 64 * 4 + 12 * 64 * 2 * pairs
        assert size.step_flops(lengths, num_targets=4) == expected


def test_peaks_are_of_the_very_device():
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "float16") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float32") == 19.5e12
    assert peak_flops("cpu", "float32") is None
    assert peak_flops("NVIDIA B200", "float32") is None
