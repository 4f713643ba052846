"""init_adapter: factors from shards, the report, bad starts, wrong targets."""

import json

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import StepFailed, UserError
from pipeline.stage import Resources
from stages import init_adapter
from stages._adaptation.probe import load_adapted, load_model, mean_loss, probe_tokens
from stages._peft.load import load_factors
from stages._weights import targets
from stages._weights.index import shard_files
from stages._weights.matrix import FileMatrix, TensorMatrix
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


def test_file_and_memory_readers_agree(tiny_model):
    from stages._weights.index import stored_tensors

    name = "model.layers.1.mlp.down_proj.weight"
    stored, memory = (
        FileMatrix(stored_tensors(tiny_model.path)[name]),
        TensorMatrix(base_weights(tiny_model.path)[name]),
    )
    for index in (range(5), [3, 1, 40]):
        assert torch.equal(stored.rows(index), memory.rows(index))
        assert torch.equal(stored.columns(index), memory.columns(index))
    assert torch.equal(stored.full(), memory.full())
