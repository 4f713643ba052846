"""What steps say that they take of a described machine."""

import pytest

from pipeline import machine
from pipeline.artifact import Artifact
from pipeline.machine import Gpu
from pipeline.stage import Needs, Resources, load_stage
from stages._training.requirements import PROCESS_BYTES, Size, needs
from stages.train import Config

SIZE = Size(num_parameters=10**9, num_trainable=10**6)


@pytest.fixture
def node(monkeypatch):
    """32 cores and as many GPUs as asked for."""

    def describe(num_gpus: int) -> None:
        gpu = Gpu(index=0, uuid="GPU-0", name="A", memory_total_bytes=1, memory_free_bytes=1)
        monkeypatch.setattr(machine, "gpus", lambda: (gpu,) * num_gpus)
        monkeypatch.setattr(machine, "cpu_count", lambda: 32)

    return describe


@pytest.fixture
def model(tmp_path) -> Artifact:
    """A thousand parameters."""
    (tmp_path / "manifest.json").write_text('{"metrics": {"num_parameters": 1000}}')
    return Artifact(path=tmp_path, stage="prepare_model", fingerprint="f" * 64)


def training(resources: Resources, **config: object) -> Needs:
    return needs(Config.model_validate({"global_batch_size": 8, **config}), resources, SIZE)


def test_training_takes_every_gpu_and_core_unless_told(node):
    node(4)
    assert training(Resources()).num_gpus == 4 and training(Resources()).num_cores == 32


def test_a_process_on_a_gpu_takes_that_and_its_share_of_the_cores(node):
    node(4)
    found = training(Resources(num_processes=1))
    assert (found.num_gpus, found.num_cores) == (1, 8)
    assert PROCESS_BYTES < found.memory_bytes < 6e9
    assert training(Resources(num_processes=2, num_threads=3)).num_cores == 6


def test_where_the_cpu_does_arithmetic_the_number_of_threads_stays_what_it_is_alone(node):
    node(4)
    alone = training(Resources(num_processes=1), offload_optimizer="cpu")
    assert (alone.num_gpus, alone.num_cores) == (1, 32)
    node(0)
    assert training(Resources()).num_cores == training(Resources(num_processes=1)).num_cores == 32
    small = training(Resources(num_processes=1, num_threads=2))
    assert (small.num_gpus, small.num_cores) == (0, 2) and small.memory_bytes > 4e9


def test_training_on_several_nodes_has_the_machine_alone():
    stage = load_stage("train")
    assert stage.needs(Config(global_batch_size=8), Resources(nodes=["localhost", "localhost"]), {}) is None


def test_steps_that_stream_take_a_core_and_little_memory(model):
    known = {"model": model}
    for name in ("prepare_data", "decontaminate", "tokenize", "report"):
        found = load_stage(name).needs(None, Resources(), known)
        assert found.num_cores == 1 and found.num_gpus == 0 and 0 < found.memory_bytes <= 2**30


def test_a_merge_keeps_its_threads_and_counts_the_model(node, model):
    node(0)
    stage = load_stage("merge")
    answers = stage.needs(stage.Config(), Resources(), {"model": model})
    tensors = stage.needs(stage.Config(verify="tensors"), Resources(num_threads=2), {"model": model})
    assert answers.num_cores == 32 and tensors.num_cores == 2
    assert answers.memory_bytes - tensors.memory_bytes == 2400


def test_a_start_takes_the_model_and_one_that_estimates_a_gradient_the_machine(model):
    stage = load_stage("init_adapter")
    plain = stage.Config.model_validate({"adapter": {"method": "nlora", "rank": 4}})
    assert stage.needs(plain, Resources(), {"model": model}).num_cores == 1
    gradient = stage.Config.model_validate({"adapter": {"method": "lora_ga", "rank": 4}})
    assert stage.needs(gradient, Resources(), {"model": model}) is None
