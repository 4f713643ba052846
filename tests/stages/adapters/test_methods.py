"""The starts of all methods against their formulas, on small matrices."""

import subprocess
import sys

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stages._adaptation.start import generator_for
from stages._weights.matrix import TensorMatrix
from stages.adapters import AnyAdapter, algebra, initializer
from stages.adapters.base import AdapterConfig, Factors

SHAPES = [(12, 12), (20, 12), (12, 20)]


def config(method: str, **options) -> AdapterConfig:
    chosen = TypeAdapter(AnyAdapter).validate_python({"method": method, "rank": 4, **options})
    assert isinstance(chosen, AdapterConfig)
    return chosen


def start(method: str, weight_OI: torch.Tensor, **options) -> Factors:
    chosen = config(method, **options)
    return initializer(chosen)(TensorMatrix(weight_OI), chosen, generator_for("layer.q_proj", 0))


def random_weight(num_out: int, num_in: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["lora", "slora"])
def test_random_starts_leave_the_model_as_it_is(method, shape):
    factors = start(method, random_weight(*shape))
    assert factors.B_OR.shape == (shape[0], 4)
    assert not factors.B_OR.any()
    assert factors.A_RI.shape == (4, shape[1])
    assert 0.8 / shape[1] ** 0.5 < factors.A_RI.abs().max() <= shape[1] ** -0.5
    assert (factors.N_RR is None) == (method == "lora")
    if factors.N_RR is not None:
        assert 0.2 < factors.N_RR.abs().max() <= 0.5  # 1 / sqrt(4)


def test_a_matrix_start_depends_on_seed_and_name_alone():
    weight = random_weight(12, 12)
    chosen = config("lora")
    init = initializer(chosen)
    first = init(TensorMatrix(weight), chosen, generator_for("a", 0)).A_RI
    assert torch.equal(first, init(TensorMatrix(weight), chosen, generator_for("a", 0)).A_RI)
    for other in (generator_for("b", 0), generator_for("a", 1)):
        assert not torch.equal(first, init(TensorMatrix(weight), chosen, other).A_RI)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["nlora", "inttune"])
def test_nystrom_factors_are_the_leading_slices(method, shape):
    weight = random_weight(*shape)
    factors = start(method, weight)
    assert torch.equal(factors.A_RI, weight[:4, :])
    assert torch.equal(factors.N_RR, weight[:4, :4])
    assert torch.equal(factors.B_OR, weight[:, :4])


@pytest.mark.parametrize("shape", SHAPES)
def test_pinv_core_reproduces_the_leading_rows_and_columns(shape):
    """Equation 6: all blocks but the last are exact, whatever the weight."""
    weight = random_weight(*shape)
    approximation = algebra.product(start("nlora", weight, core="pinv"), 1.0, torch.float64)
    assert torch.allclose(approximation[:4], weight[:4], atol=1e-10)
    assert torch.allclose(approximation[:, :4], weight[:, :4], atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
def test_pinv_core_is_exact_for_a_weight_of_rank_r(shape):
    weight = random_weight(shape[0], 4) @ random_weight(4, shape[1])
    approximation = algebra.product(start("nlora", weight, core="pinv"), 1.0, torch.float64)
    assert torch.allclose(approximation, weight, atol=1e-9)


@pytest.mark.parametrize("method", ["nlora", "slora", "lora"])
def test_update_norm_needs_no_product(method):
    factors = start(method, random_weight(20, 12))
    factors = factors._replace(B_OR=random_weight(20, 4))
    expected = algebra.product(factors, 0.7, torch.float64).norm()
    assert algebra.update_norm(factors, 0.7) == pytest.approx(float(expected), rel=1e-12)


def test_bfloat16_weights_start_in_float32():
    weight = random_weight(12, 12, torch.float32).bfloat16()
    assert torch.equal(start("nlora", weight).A_RI, weight[:4].float())
    core = start("nlora", weight, core="pinv").N_RR
    assert core is not None
    assert core.dtype == torch.float32


def test_what_is_trained_and_what_is_subtracted():
    assert config("lora").TRAINABLE == ("A", "B")
    assert config("slora").TRAINABLE == ("A", "N", "B")
    assert config("inttune").TRAINABLE == ("N",)
    assert config("nlora").subtracts_start
    assert not config("nlora", residual="keep").subtracts_start  # the paper's own code
    assert config("lora", alpha=8).scaling == 2.0
    assert config("lora").scaling == 1.0


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"method": "lorra", "rank": 4}, "lorra"),
        ({"method": "lora", "rank": 0}, "rank"),
        ({"method": "lora", "rank": 4, "alpha": 0}, "alpha"),
        ({"method": "lora", "rank": 4, "core": "pinv"}, "core"),
        ({"method": "nlora", "rank": 4, "core": "pinvv"}, "core"),
        ({"method": "lora", "rank": 4, "targets": []}, "targets"),
    ],
)
def test_wrong_options_are_refused(options, field):
    with pytest.raises(ValidationError, match=field):
        TypeAdapter(AnyAdapter).validate_python(options)


def test_configs_import_without_torch():
    code = "import sys, stages.adapters; assert not {'torch', 'numpy', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
