"""Weights divided by ZeRO stage 3: read bit for bit, with little sent, and started as from files. In two processes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from pipeline.errors import UserError
from stages._adaptation.in_process import start_in_process
from stages._adaptation.start import start_one, targeted_weights
from stages._peft.config import peft_config
from stages._peft.load import adapted_layers, named
from stages._weights.matrix import TensorMatrix
from stages._weights.partitioned import PartitionedMatrix, is_partitioned, reader
from stages.adapters import AnyAdapter
from stages.adapters.base import AdapterConfig
from tests.stages import two_processes

SAMPLINGS = ("leading", "uniform", "norm", "leverage")
CORES = ("sample", "pinv", "least_squares")
RANK, SEED = 4, 7
CASES: dict[str, dict[str, Any]] = {
    **{f"nlora-{s}-{c}": {"method": "nlora", "sampling": s, "core": c} for s in SAMPLINGS for c in CORES},
    "nlora-scaled": {"method": "nlora", "scale": 0.1},
    "inttune": {"method": "inttune", "residual": "keep"},
    "slora": {"method": "slora"},
    "lora": {"method": "lora", "start": "gaussian"},
    "pissa": {"method": "pissa"},
    "pissa-fast": {"method": "pissa", "svd": "fast"},
    "olora": {"method": "olora"},
    "dora": {"method": "dora"},
    "nlora-dora": {"method": "nlora", "dora": True},
    "pattern": {"method": "nlora", "rank_pattern": {"q_proj": 6}, "alpha_pattern": {"up_proj": 2}},
}
WHOLE_MODEL = "pissa"
"""also run on a model that every process has as a whole"""
SLICED = [case for case in CASES if case.startswith(("nlora-leading", "nlora-uniform")) and "squares" not in case]
NUM_MATRICES = 14


def adapter_of(case: str) -> AdapterConfig:
    checked = TypeAdapter(AnyAdapter).validate_python({"rank": RANK, **CASES[case]})
    assert isinstance(checked, AdapterConfig)
    return checked


# ---- in the two processes


def main(model_dir: Path, out: Path) -> None:
    rank = two_processes.join()
    results = {"readers": check_readers(), **{case: start(case, model_dir, out / f"{case}-{rank}") for case in CASES}}
    results["whole model"] = start(WHOLE_MODEL, model_dir, out / f"whole-{rank}", divided=False)
    results["trained"] = train(model_dir)
    (out / f"results-{rank}.json").write_text(json.dumps(results))


def check_readers() -> dict[str, int]:
    """Every call against the same weight in one piece; what was sent for slices of the larger one."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        whole = awkward(9, 7, dtype)  # 63 numbers: the last piece is padded
        matrix, expected = PartitionedMatrix(divide(whole)), TensorMatrix(whole)
        assert matrix.shape == (9, 7)
        for index in ([0, 1, 2], [5, 0, 8], range(4, 7), [6]):
            inside = [min(i, 6) for i in index]
            assert_same_bits(matrix.rows(index), expected.rows(index))
            assert_same_bits(matrix.columns(inside), expected.columns(inside))
        assert_same_bits(matrix.full(), expected.full())
        for ours, theirs in zip(matrix.blocks(4), expected.blocks(4), strict=True):
            assert_same_bits(ours, theirs)
        for owner in (0, 1):
            there = matrix.at(owner)
            assert (there is None) == (matrix.processes.rank != owner)
            if there is not None:
                assert_same_bits(there, expected.full())
    large = PartitionedMatrix(divide(torch.randn(200, 300)))
    large.rows(range(8)), large.columns(range(8))
    return {"received": large.bytes_received}


def awkward(num_out: int, num_in: int, dtype: torch.dtype) -> torch.Tensor:
    """With zeros of both signs, infinities, subnormal numbers and a NaN with a payload."""
    weight = torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight[0, :4] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf])
    weight[:, 1] = -0.0
    weight[3, 2] = torch.finfo(dtype).tiny / 4
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    weight.view(bits)[5, 5] = torch.tensor([torch.nan], dtype=dtype).view(bits)[0] + 3
    return weight


def divide(weight: torch.Tensor) -> torch.nn.Parameter:
    """As ZeRO-3 does."""
    import deepspeed

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    deepspeed.zero.Init(module=layer, dtype=weight.dtype)
    assert is_partitioned(layer.weight)
    assert layer.weight.numel() == 0
    return layer.weight


def assert_same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours.contiguous().view(torch.uint8), theirs.contiguous().view(torch.uint8))


def start(case: str, model_dir: Path, out: Path, divided: bool = True) -> dict[str, Any]:
    """Start one method; what every process then has, and what it took."""
    import deepspeed

    adapter = adapter_of(case)
    settings = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}}
    # transformers' way, which PEFT's own DoRA needs, and DeepSpeed's alone
    loading = HfDeepSpeedConfig(settings) if adapter.has_magnitude else None
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    if divided and not loading:
        deepspeed.zero.Init(module=base)
    model = get_peft_model(base, peft_config(adapter, list(targeted_weights(model_dir, adapter))))
    calls = {name: counted(name) for name in ("svd", "qr")}
    assert all(is_partitioned(layer.get_base_layer().weight) == divided for _, layer in adapted_layers(model))
    received = start_in_process(model, adapter, SEED)
    counts = {name: call() for name, call in calls.items()}
    factors = get_peft_model_state_dict(model)
    bases = {f"{name}.base": reader(layer.get_base_layer().weight).full() for name, layer in adapted_layers(model)}
    save_file({**factors, **bases}, out.with_suffix(".safetensors"))
    return {"received": received, **counts}


def train(model_dir: Path) -> dict[str, Any]:
    """A start that is subtracted, then DeepSpeed's engine around the model."""
    import deepspeed

    tokens = torch.arange(6, 22)[None] + torch.arange(4)[:, None]
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    with torch.no_grad():
        expected = base(input_ids=tokens).logits
    settings = {
        "train_micro_batch_size_per_gpu": 4,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "steps_per_print": 10**9,
    }
    deepspeed.zero.Init(module=base, config_dict_or_path=settings)
    adapter = adapter_of("nlora-norm-sample")
    model = get_peft_model(base, peft_config(adapter, list(targeted_weights(model_dir, adapter))))
    start_in_process(model, adapter, SEED)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    losses, first = [], None
    for _ in range(6):
        answer = engine(input_ids=tokens, labels=tokens)
        first = answer.logits.detach() if first is None else first
        engine.backward(answer.loss)
        engine.step()
        losses.append(float(answer.loss.detach()))
    assert first is not None
    return {"error": float((first - expected).abs().max()), "losses": losses}


def counted(name: str) -> Callable[[], int]:
    """Count the calls of a function of torch.linalg until asked for their number."""
    original, calls = getattr(torch.linalg, name), []

    def counting(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return original(*arguments, **options)

    def stop() -> int:
        setattr(torch.linalg, name, original)
        return len(calls)

    setattr(torch.linalg, name, counting)
    return stop


# ---- what came of it


@pytest.fixture(scope="module")
def ran(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("partitioned")
    two_processes.run("tests.stages.test_partitioned", str(tiny_model_dir), str(out))
    return out


def results(out: Path, case: str) -> list[dict[str, Any]]:
    return [json.loads((out / f"results-{rank}.json").read_text())[case] for rank in (0, 1)]


@pytest.mark.slow
def test_slices_are_sent_and_nothing_else(ran):
    sent = sum(each["received"] for each in results(ran, "readers"))
    assert sent == 8 * (200 + 300) * 4
    assert sent < 200 * 300 * 4 / 10


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, "whole"])
def test_the_start_is_that_from_files_bit_for_bit(case, ran, tiny_model_dir):
    torch.set_num_threads(1)
    adapter = adapter_of(WHOLE_MODEL if case == "whole" else case)
    weights = targeted_weights(tiny_model_dir, adapter)
    assert len(weights) == NUM_MATRICES
    first, second = (load_file(ran / f"{case}-{rank}.safetensors") for rank in (0, 1))
    for name, tensor in first.items():
        assert_same_bits(tensor, second[name])
    for module, weight in weights.items():
        factors = start_one(module, weight, adapter, SEED)
        for name, tensor in named(module, factors).items():
            assert_same_bits(first[name], tensor)
        update = (
            adapter.for_module(module).scaling
            * factors.B_OR
            @ (factors.A_RI if factors.N_RR is None else factors.N_RR @ factors.A_RI)
        )
        expected = weight.full() - update if adapter.subtracts_start else weight.full()
        assert torch.allclose(first[f"{module}.base"], expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLICED)
def test_a_start_from_slices_sends_r_rows_and_r_columns(case, ran, tiny_model_dir):
    shapes = [weight.shape for weight in targeted_weights(tiny_model_dir, adapter_of(case)).values()]
    assert sum(each["received"] for each in results(ran, case)) == sum(RANK * (o + i) * 4 for o, i in shapes)
    assert sum(RANK * (o + i) for o, i in shapes) < sum(o * i for o, i in shapes) / 5


@pytest.mark.slow
@pytest.mark.parametrize(("case", "function"), [("pissa", "svd"), ("olora", "qr"), ("whole model", "svd")])
def test_whole_matrices_are_shared_out_between_the_processes(case, function, ran, tiny_model_dir):
    assert [each[function] for each in results(ran, case)] == [NUM_MATRICES / 2] * 2
    if case != "whole model":
        sizes = [o * i for o, i in (w.shape for w in targeted_weights(tiny_model_dir, adapter_of(case)).values())]
        assert sum(each["received"] for each in results(ran, case)) == sum(sizes) * 4 / 2  # half is where it is needed


@pytest.mark.slow
def test_a_subtracted_start_is_the_base_model_and_trains(ran):
    first, second = results(ran, "trained")
    assert first == second
    assert first["error"] < 1e-4
    assert first["losses"][-1] < first["losses"][0] - 0.05


def test_one_process_starts_a_model_too(tiny_model_dir):
    torch.set_num_threads(1)
    adapter = adapter_of("pissa-fast")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    weights = targeted_weights(tiny_model_dir, adapter)
    model = get_peft_model(base, peft_config(adapter, list(weights)))
    assert start_in_process(model, adapter, SEED) == 0
    for module, layer in adapted_layers(model):
        factors = start_one(module, weights[module], adapter, SEED)
        assert_same_bits(layer.lora_A["default"].weight.detach(), factors.A_RI)
        assert_same_bits(layer.lora_B["default"].weight.detach(), factors.B_OR)


def test_an_adapter_of_another_form_is_refused(tiny_model_dir):
    adapter = adapter_of("pissa")
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    model = get_peft_model(base, peft_config(adapter_of("lora"), ["q_proj"]))
    with pytest.raises(UserError, match="init_lora_weights = True, expected 'start_subtracted' for pissa"):
        start_in_process(model, adapter)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
