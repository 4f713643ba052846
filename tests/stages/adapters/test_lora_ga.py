"""lora_ga: the numbers of PEFT's own implementation, and gradients through DeepSpeed that are the plain ones."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, LoraGAConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.loraga import preprocess_loraga
from pydantic import TypeAdapter
from safetensors.torch import load_file

from pipeline import recipe
from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import init_adapter
from stages._adaptation.probe import load_model
from stages._adaptation.start import generator_for, start_one, targeted_weights
from stages._peft.load import load_factors
from stages._training import launch, nodes, requirements
from stages._training.batches import Order, TokenFile
from stages._training.spec import GRADIENTS_FILE
from stages._weights import targets
from stages._weights.matrix import TensorMatrix
from stages.adapters import AnyAdapter
from stages.adapters.base import AdapterConfig
from stages.adapters.gradient import Estimate
from stages.workflow import Recipe, steps

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"
RESOURCES = Resources(device="cpu", num_processes=2, num_threads=1)
NUM_BATCHES, BATCH_SIZE, SEED = 3, 3, 5
ESTIMATE = {"num_batches": NUM_BATCHES, "batch_size": BATCH_SIZE}

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # PEFT's


def config(**options) -> AdapterConfig:
    chosen = TypeAdapter(AnyAdapter).validate_python({"method": "lora_ga", "rank": 4, **options})
    assert isinstance(chosen, AdapterConfig)
    return chosen


class Matrix(TensorMatrix):
    """A weight in memory with its gradient."""

    def __init__(self, weight_OI: torch.Tensor, gradient_OI: torch.Tensor) -> None:
        super().__init__(weight_OI)
        self.gradient_OI = gradient_OI

    def gradient(self) -> torch.Tensor:
        return self.gradient_OI


def random_matrix(num_out: int, num_in: int) -> Matrix:
    generator = torch.Generator().manual_seed(1)
    return Matrix(*(torch.randn(num_out, num_in, generator=generator) for _ in range(2)))


def seed_peft(monkeypatch: pytest.MonkeyPatch, names: dict[Any, str], seed: int) -> None:
    """Let PEFT draw the random numbers that our start of each layer draws; it has one stream for all layers."""
    usual = LoraLayer.lora_ga_init

    def seeded(layer: Any, *args: Any) -> None:
        torch.manual_seed(generator_for(names[layer.get_base_layer()], seed).initial_seed())
        usual(layer, *args)

    monkeypatch.setattr(LoraLayer, "lora_ga_init", seeded)


def by_peft(matrix: Matrix, monkeypatch: pytest.MonkeyPatch, **options) -> tuple[torch.Tensor, ...]:
    """(A, B, what is left of the weight) of PEFT's own code for a model of one layer."""
    layer = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    layer.weight = torch.nn.Parameter(matrix.full())
    layer._peft_loraga_grad = matrix.gradient()
    model = torch.nn.ModuleDict({"layer": layer})
    peft_options = {"init_lora_weights": "lora_ga", "lora_ga_config": LoraGAConfig(**options)}
    seed_peft(monkeypatch, {layer: "layer"}, SEED)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["layer"], **peft_options))
    adapted_layer = adapted.base_model.model["layer"]
    factors = adapted_layer.lora_A["default"].weight, adapted_layer.lora_B["default"].weight
    return *(factor.detach() for factor in factors), adapted_layer.get_base_layer().weight.detach()


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
@pytest.mark.parametrize("scale", ["stable", "weight_svd", "gd_scale", "unit"])
@pytest.mark.parametrize("direction", ["ArBr", "A2rBr", "ArB2r", "random"])
def test_the_start_is_pefts(direction, scale, shape, monkeypatch):
    chosen = config(direction=direction, scale=scale, alpha=8)
    matrix = random_matrix(*shape)
    factors = start_one("layer", matrix, chosen, SEED)
    a, b, left = by_peft(matrix, monkeypatch, direction=direction, scale=scale)
    torch.testing.assert_close(factors.A_RI, a)
    torch.testing.assert_close(factors.B_OR, b)
    reduced = matrix.full() - chosen.scaling * factors.B_OR @ factors.A_RI
    torch.testing.assert_close(reduced, left)


def test_the_first_update_follows_the_gradient():
    """Section 3.2 of the paper: B A moves by -(B B' G + G A' A), the best that rank 2r can do for a gradient step."""
    matrix = random_matrix(24, 16)
    factors = start_one("layer", matrix, config(direction="ArB2r", scale="unit"), seed=0)
    left, right = factors.B_OR / factors.B_OR.norm(dim=0), factors.A_RI
    update = left @ left.T @ matrix.gradient() + matrix.gradient() @ right.T @ right
    singular = torch.linalg.svdvals(matrix.gradient())
    assert float((update - matrix.gradient()).norm()) == pytest.approx(float(singular[8:].norm()), rel=1e-3)


def test_it_takes_twice_the_rank_of_singular_vectors():
    shapes = {"layer.q_proj.weight": (24, 7)}
    (line,) = targets.problems(shapes, config())
    assert "adapter.rank: got 4, must be <= 3" in line
    assert targets.problems(shapes, config(rank=3)) == []


# ---- the gradient


class Expected:
    """What PEFT makes of the tiny model and the same batches, in this process."""

    def __init__(self, model_dir: Path, tokens_dir: Path) -> None:
        self.model = load_model(model_dir)
        tokens = TokenFile(tokens_dir / "train.safetensors")
        order = Order(tokens.lengths, BATCH_SIZE, SEED, group_by_length=False)
        batches = [tokens.batch(order.rows(number)) for number in range(NUM_BATCHES)]

        def step() -> None:
            for batch in batches:
                labels = batch.input_ids.masked_fill(~batch.is_target, -100)
                self.model(input_ids=batch.input_ids, labels=labels).loss.backward()

        self.config = LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules=list(targeted_weights(model_dir, config())),
            init_lora_weights="lora_ga",
            lora_ga_config=LoraGAConfig(),
        )
        preprocess_loraga(self.model, self.config, step)
        self.modules = {name: self.model.get_submodule(name) for name in self.config.target_modules or ()}
        self.gradients = {name: module._peft_loraga_grad for name, module in self.modules.items()}

    def adapted(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """PEFT's model, each layer started with the random numbers that ours has."""
        seed_peft(monkeypatch, {module: name for name, module in self.modules.items()}, SEED)
        return get_peft_model(self.model, self.config)


@pytest.fixture(scope="module")
def expected(tiny_model_dir, tiny_tokens_dir) -> Expected:
    return Expected(tiny_model_dir, tiny_tokens_dir)


def assert_equal_gradients(file: Path, expected: Expected) -> None:
    """To float32's rounding, which adds up over the batch."""
    found = load_file(file)
    assert found.keys() == {f"{name}.weight" for name in expected.gradients}
    for name, gradient_OI in expected.gradients.items():
        error = float((found[f"{name}.weight"] - gradient_OI).norm() / gradient_OI.norm())
        assert error < 1e-5, (name, error)


@pytest.mark.slow
def test_every_zero_stage_gives_the_gradient_of_one_process(tiny_model_dir, tiny_tokens_dir, expected, tmp_path):
    """With every parameter divided at stage 3, and three samples shared out unevenly among two processes."""
    specs = []
    for zero_stage in (0, 1, 2, 3):
        out = tmp_path / str(zero_stage)
        out.mkdir()
        settings = Estimate.model_validate({**ESTIMATE, "zero_stage": zero_stage})
        modules = list(expected.gradients)
        specs.append(
            launch.make_gradient_spec(
                settings, modules, SEED, tiny_model_dir, tiny_tokens_dir, Workspace(out), RESOURCES
            )
        )
    file = tmp_path / "specs.json"
    file.write_text(json.dumps([spec.model_dump_json() for spec in specs]))
    command = [*nodes.command(file, 2)[:-2], "tests.stages.gradient_runs", str(file)]
    subprocess.run(command, env=launch.environment(specs[0]), check=True, timeout=300)
    for spec in specs:
        assert_equal_gradients(spec.out / GRADIENTS_FILE, expected)


@pytest.mark.slow
def test_the_stage_starts_the_adapter_that_peft_would(tiny_model, tiny_tokens, expected, workspace, monkeypatch):
    adapter = {"method": "lora_ga", "rank": 4, "alpha": 8, "gradient": {**ESTIMATE, "zero_stage": 3}}
    chosen = init_adapter.Config.model_validate({"adapter": adapter, "seed": SEED})
    inputs = init_adapter.Inputs(model=tiny_model, tokens=tiny_tokens)
    metrics = init_adapter.run(chosen, inputs, workspace, RESOURCES)
    assert_equal_gradients(workspace / GRADIENTS_FILE, expected)
    assert metrics["bytes_read"] == sum(4 * gradient_OI.numel() for gradient_OI in expected.gradients.values())
    assert metrics["probe_loss_start"] == pytest.approx(metrics["probe_loss_base"], abs=1e-4)
    factors = load_factors(workspace.path)
    adapted = expected.adapted(monkeypatch)
    for name in expected.gradients:
        layer = adapted.base_model.model.get_submodule(name)
        torch.testing.assert_close(factors[name].A_RI, layer.lora_A["default"].weight.data, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(factors[name].B_OR, layer.lora_B["default"].weight.data, rtol=1e-3, atol=1e-4)
    monkeypatch.setattr(launch, "run_workers", None)  # a step that failed later does not estimate again
    again = init_adapter.run(chosen, inputs, workspace, RESOURCES)
    assert again["gradient_loss"] == metrics["gradient_loss"]


def test_a_batch_larger_than_the_data_is_refused(tiny_model, tiny_tokens, workspace):
    adapter = {"method": "lora_ga", "rank": 4, "gradient": {"batch_size": 41}}
    chosen = init_adapter.Config.model_validate({"adapter": adapter})
    with pytest.raises(UserError, match=r"gradient\.batch_size: got 41, must be <= the 40 training samples"):
        init_adapter.run(chosen, init_adapter.Inputs(model=tiny_model, tokens=tiny_tokens), workspace, RESOURCES)


def test_it_needs_tokens(tiny_model, workspace):
    chosen = init_adapter.Config.model_validate({"adapter": {"method": "lora_ga", "rank": 4}})
    with pytest.raises(UserError, match="expected a track's tokens"):
        init_adapter.run(chosen, init_adapter.Inputs(model=tiny_model), workspace, RESOURCES)


def test_a_gradient_that_does_not_fit_is_refused(tiny_model):
    chosen = init_adapter.Config.model_validate({"adapter": {"method": "lora_ga", "rank": 4}})
    assert init_adapter.preflight(chosen, RESOURCES, {"model": tiny_model}) == []
    size = requirements.Size(num_parameters=10**13, num_trainable=10**13)
    (line,) = requirements.gradient_problems(Estimate(zero_stage=3), RESOURCES, size)
    assert "needs about 1117" in line  # weights, gradients and masters: 12 bytes each, in GiB
    assert "use a higher zero_stage" in line


@pytest.mark.parametrize(("method", "expected"), [("lora_ga", ["math/init_adapter"]), ("lora", ["init_adapter"])])
def test_each_track_starts_its_own(method, expected):
    given = recipe.load(QUICKSTART, Recipe, [f"init.adapter={{method: {method}, rank: 4}}"])
    planned = {step.name: step for step in steps(given)}
    inits = [name for name, step in planned.items() if step.stage == "init_adapter"]
    assert inits == expected
    assert planned["math/train"].inputs["adapter"] is planned[inits[0]]
    assert ("tokens" in planned[inits[0]].inputs) == (method == "lora_ga")
    assert list(planned).index("math/tokenize") < list(planned).index("math/train")
