"""init_adapter: factors from shards, the report, bad starts, wrong targets."""

import json
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.model_files import write_model
from pipeline.errors import StepFailed, UserError
from pipeline.stage import Resources, Workspace
from stages import init_adapter
from stages._adaptation import start
from stages._adaptation.parallel import in_order
from stages._adaptation.probe import load_adapted, load_model, mean_loss, probe_tokens
from stages._adaptation.start import start_one, write_adapter
from stages._peft.load import load_factors
from stages._weights import targets
from stages._weights.architecture import Shapes
from stages._weights.index import shard_files
from stages._weights.matrix import TensorMatrix
from stages.adapters import pissa
from stages.adapters.algebra import product
from tests.stages.conftest import artifact, write_tiny_model


def config(method: str = "nlora", **options) -> init_adapter.Config:
    top = {key: options.pop(key) for key in ("probe", "accept_start", "seed") if key in options}
    return init_adapter.Config.model_validate({"adapter": {"method": method, "rank": 8, **options}, **top})


def base_weights(folder) -> dict[str, torch.Tensor]:
    return {name: tensor for shard in shard_files(folder) for name, tensor in load_file(shard).items()}


def test_nlora_starts_from_the_shards(tiny_model, workspace, resources):
    metrics = init_adapter.run(config(), init_adapter.Inputs(model=tiny_model), workspace, resources)
    weights, factors = base_weights(tiny_model.path), load_factors(workspace.path)
    assert len(factors) == metrics["num_matrices"] == 14
    for module, (a, n, b, *_) in factors.items():
        weight = weights[f"{module}.weight"]
        assert torch.equal(a, weight[:8])
        assert torch.equal(n, weight[:8, :8])
        assert torch.equal(b, weight[:, :8])
    report = json.loads((workspace / "init_report.json").read_text())
    for matrix in report["matrices"]:
        weight = weights[f"{matrix['module']}.weight"]
        update = product(factors[matrix["module"]], 1.0, torch.float64)
        assert matrix["relative_update"] == pytest.approx(float(update.norm() / weight.norm()), rel=1e-5)
    assert metrics["trainable_parameters"] == sum(
        f.numel() for start in factors.values() for f in start[:3] if f is not None
    )


def test_without_a_probe_only_slices_are_read(tiny_model, workspace, resources):
    metrics = init_adapter.run(config(probe=False), init_adapter.Inputs(model=tiny_model), workspace, resources)
    weights = base_weights(tiny_model.path)
    slices = [sum(weight.shape) * 8 * 4 for name, weight in weights.items() if "proj" in name]
    assert metrics["bytes_read"] == sum(slices)
    assert "probe_loss_start" not in metrics


def test_the_same_seed_gives_the_same_file(tiny_model, tmp_path, workspace, resources):
    files = []
    for seed in (0, 0, 1):
        init_adapter.run(
            config("slora", probe=False, seed=seed), init_adapter.Inputs(model=tiny_model), workspace, resources
        )
        names = ("adapter_model.safetensors", "adapter_config.json")
        files.append([(workspace / name).read_bytes() for name in names])
    assert files[0] == files[1]
    assert files[0][0] != files[2][0]


def test_targets_by_name_and_regex(tiny_model, workspace, resources):
    for chosen, count in ((["q_proj", "v_proj"], 4), (r"model\.layers\.0\.mlp\..*", 3)):
        init_adapter.run(
            config(targets=chosen, probe=False), init_adapter.Inputs(model=tiny_model), workspace, resources
        )
        assert len(load_factors(workspace.path)) == count
        adapted = load_adapted(tiny_model.path, workspace.path, start_dir=None)
        assert sum(".lora_N." in name for name, _ in adapted.named_parameters()) == count


@pytest.fixture(scope="module")
def loud_model(tmp_path_factory):
    """A tiny model whose weights are so large that Nystrom starts change it."""
    folder = tmp_path_factory.mktemp("loud_model")
    write_tiny_model(folder, initializer_range=0.4)
    return artifact(folder, "prepare_model")


def test_a_bad_start_is_refused_with_its_cure(loud_model, workspace, resources):
    with pytest.raises(StepFailed, match=r"residual: subtract.*accept_start: true"):
        init_adapter.run(config(residual="keep"), init_adapter.Inputs(model=loud_model), workspace, resources)
    metrics = init_adapter.run(
        config(residual="keep", accept_start=True), init_adapter.Inputs(model=loud_model), workspace, resources
    )
    assert metrics["probe_loss_start"] > metrics["probe_loss_base"] + 1


def test_subtract_starts_at_the_base_model(loud_model, workspace, resources):
    chosen = config(residual="subtract")
    metrics = init_adapter.run(chosen, init_adapter.Inputs(model=loud_model), workspace, resources)
    assert metrics["probe_loss_start"] == pytest.approx(metrics["probe_loss_base"], abs=1e-4)
    adapted = load_adapted(loud_model.path, workspace.path, start_dir=workspace.path)
    tokens = probe_tokens(loud_model.path)
    assert mean_loss(adapted, tokens) == pytest.approx(mean_loss(load_model(loud_model.path), tokens), abs=1e-4)


def test_preflight_names_what_does_not_fit(tiny_model, workspace, resources):
    known = {"model": tiny_model}
    assert init_adapter.preflight(config(), Resources(), known) == []
    assert init_adapter.preflight(config(targets=["nonsense"]), Resources(), {}) == []
    (line,) = init_adapter.preflight(config(targets=["q_prj", "v_proj"]), Resources(), known)
    assert "'q_prj' matches no module" in line
    assert "q_proj" in line
    too_large = config(rank=33)
    (line,) = init_adapter.preflight(too_large, Resources(), known)
    assert "must be <= 32" in line
    assert "k_proj" in line
    with pytest.raises(UserError, match="must be <= 32"):
        init_adapter.run(too_large, init_adapter.Inputs(model=tiny_model), workspace, resources)


def test_embeddings_and_heads_are_no_targets():
    shapes = {
        "model.embed_tokens.weight": (100, 8),
        "lm_head.weight": (100, 8),
        "model.layers.0.mlp.up_proj.weight": (16, 8),
        "model.layers.0.mlp.up_proj.bias": (16,),
        "model.norm.weight": (8,),
    }
    assert targets.matrices(shapes) == {"model.layers.0.mlp.up_proj": (16, 8)}


def test_short_names_mean_the_same_modules():
    modules = ["a.0.q", "a.1.q", "b.0.q", "a.0.v"]
    assert targets.short_names(modules, ["a.0.q", "a.1.q", "b.0.q"]) == ["q"]
    assert targets.short_names(modules, ["a.0.q"]) == ["a.0.q"]


@pytest.fixture(scope="module")
def wide_model_dir(tmp_path_factory):
    """Matrices of up to 512 x 256: large enough for LAPACK to share them out among threads."""
    folder = tmp_path_factory.mktemp("wide_model")
    write_tiny_model(folder, hidden_size=256, intermediate_size=512)
    return folder


@pytest.mark.parametrize(
    "adapter",
    [
        {"method": "nlora", "core": "pinv", "sampling": "leverage"},
        {"method": "nlora", "core": "least_squares"},
        {"method": "slora"},
        {"method": "pissa"},
        {"method": "olora"},
    ],
    ids=str,
)
def test_the_file_does_not_depend_on_the_number_of_threads(wide_model_dir, tmp_path, adapter):
    chosen = init_adapter.Config.model_validate({"adapter": {**adapter, "rank": 32}, "probe": False})
    files = []
    for num_threads in (1, 2, 5):
        folder = tmp_path / f"{num_threads}"
        folder.mkdir()
        write_adapter(chosen, wide_model_dir, Workspace(folder), Resources(num_threads=num_threads))
        files.append((folder / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1] == files[2]


def test_a_start_does_not_depend_on_the_threads_of_its_caller():
    """As when it is called in a training process, and not by the init stage."""
    weight = TensorMatrix(torch.randn(512, 512, generator=torch.Generator().manual_seed(0)))
    chosen = pissa.Config(method="pissa", rank=8)
    before, starts = torch.get_num_threads(), []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        starts.append(start_one("layer", weight, chosen, seed=0))
        assert torch.get_num_threads() == num_threads
    torch.set_num_threads(before)
    assert torch.equal(starts[0].A_RI, starts[1].A_RI)
    assert torch.equal(starts[0].B_OR, starts[1].B_OR)


def test_results_come_in_order_and_wait_for_who_takes_them():
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    results = in_order(work, range(100), num_threads=3)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    time.sleep(0.05)
    assert sorted(begun) == list(range(5 + 3))
    assert list(results) == [item * item for item in range(5, 100)]
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda item: 1 // item, [1, 0, 2], num_threads=2))


GROWTH = """
import sys
from pathlib import Path
from pipeline.stage import Resources, Workspace
from stages import init_adapter
from stages._adaptation.start import write_adapter

def peak_bytes():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

config = init_adapter.Config.model_validate({"adapter": {"method": sys.argv[3], "rank": 64}, "probe": False})
before = peak_bytes()
write_adapter(config, Path(sys.argv[1]), Workspace(Path(sys.argv[2])), Resources(num_threads=2))
print(peak_bytes() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("method", "bar"), [("nlora", 200), ("slora", 100), ("olora", 400)])
def test_memory_is_bounded_by_matrices_in_work(tmp_path, workspace, method, bar):
    """A model of 20 matrices of 4096 x 4096, 671 MB of holes, whose factors are 42 MB: MB that the start adds."""
    shapes: Shapes = {f"layers.{number}.proj.weight": (4096, 4096) for number in range(20)}
    write_model(tmp_path / "model", shapes, sparse=True)
    command = [sys.executable, "-c", GROWTH, tmp_path / "model", workspace.path, method]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) < bar * 1e6
    assert len(load_factors(workspace.path)) == 20


def test_an_interrupted_start_leaves_no_factors(tiny_model, workspace, resources, monkeypatch):
    def broken(module, *rest):
        if "layers.1.mlp" in module:
            raise KeyboardInterrupt
        return start_one(module, *rest)

    monkeypatch.setattr(start, "start_one", broken)
    with pytest.raises(KeyboardInterrupt):
        init_adapter.run(config(probe=False), init_adapter.Inputs(model=tiny_model), workspace, resources)
    assert not (workspace / "adapter_model.safetensors").exists()


def test_factors_are_read_when_asked_for(tiny_model, workspace, resources):
    init_adapter.run(config(probe=False), init_adapter.Inputs(model=tiny_model), workspace, resources)
    factors, stored = load_factors(workspace.path), load_file(workspace / "adapter_model.safetensors")
    assert list(factors) == sorted({name.partition(".lora_")[0].removeprefix("base_model.model.") for name in stored})
    for module, each in factors.items():
        for kind, tensor in zip("ANB", each[:3], strict=True):
            assert torch.equal(tensor, stored[f"base_model.model.{module}.lora_{kind}.weight"])
    with pytest.raises(KeyError):
        factors["no.such.module"]
