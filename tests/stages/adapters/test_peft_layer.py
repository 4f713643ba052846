"""Layers with a core inside PEFT: outputs, gradients, saving, merging, switching."""

import itertools

import pytest
import torch
from peft import LoraConfig, PeftModel

from stages._peft.config import StructuredLoraConfig, read_config
from stages._peft.layer import add_update
from stages._peft.load import load_adapter, subtract_update
from tests.stages.adapters.layers import (
    DORA_FORMS,
    FORMS,
    NUM_IN,
    NUM_OUT,
    Net,
    adapted,
    adapted_lengths,
    formula,
    gradients,
    gradients_are_finite_differences,
    inputs,
    layer_of,
    randomize,
)

every_form = pytest.mark.parametrize(("method", "options"), FORMS + DORA_FORMS)


@pytest.mark.parametrize("num_tokens", [2, 6])
@pytest.mark.parametrize(("num_in", "num_out"), [(3, 5), (5, 3)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("only_core", [False, True])
def test_every_order_of_products_gives_the_same_sum_and_gradients(num_tokens, num_in, num_out, scale, only_core):
    generator = torch.Generator().manual_seed(0)
    shapes = [(num_tokens, num_out), (num_tokens, num_in), (2, num_in), (2, 2), (num_out, 2)]
    trained = [True, True, not only_core, True, not only_core]
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=wanted)
        for shape, wanted in zip(shapes, trained, strict=True)
    ]

    def plain(result, x, a, n, b):
        return result + scale * x @ a.T @ n.T @ b.T

    def ours(result, x, a, n, b):
        return add_update(result, x, a, n, b, scale)

    assert torch.allclose(ours(*tensors), plain(*tensors))
    assert torch.autograd.gradcheck(ours, tensors)


@every_form
@pytest.mark.parametrize(("name", "width"), [("first", NUM_IN), ("second", NUM_OUT)])
@pytest.mark.parametrize("shape", [(3,), (2, 20)])
def test_output_is_the_formula(method, options, name, width, shape):
    layer, x = layer_of(method, name, **options), inputs(*shape, width=width)
    assert torch.allclose(layer(x), formula(layer, x), atol=1e-12)


@pytest.mark.parametrize(("method", "options"), FORMS)
@pytest.mark.parametrize(("name", "width"), [("first", NUM_IN), ("second", NUM_OUT)])
@pytest.mark.parametrize("num_tokens", [3, 20])
def test_gradients_are_finite_differences(method, options, name, width, num_tokens):
    layer = layer_of(method, name, **options)
    assert gradients_are_finite_differences(layer, inputs(num_tokens, width=width))


@pytest.mark.parametrize(("method", "options"), DORA_FORMS)
def test_doras_gradients_take_the_rows_lengths_for_constant(method, options):
    """As DoRA's authors advise (section 4.3) and PEFT does: exact for inputs and trained lengths; for the factors,
    the gradient of the formula with ||W + s B N A|| held fixed, and not its full gradient.
    """
    layer, x = layer_of(method, **options), inputs(6)
    assert gradients_are_finite_differences(layer, inputs(6), only="magnitude")
    found = gradients(layer, layer(x))
    held = gradients(layer, formula(layer, x, adapted_lengths(layer).detach()))
    full = gradients(layer, formula(layer, x))
    assert len(found) == 4
    for name, gradient in found.items():
        assert torch.allclose(gradient, held[name], atol=1e-10)
        assert torch.allclose(gradient, full[name], atol=1e-10) == ("magnitude" in name)


@every_form
def test_dropout_is_of_the_updates_input(method, options):
    layer, x = layer_of(method, dropout=0.5, **options), inputs(6)
    layer.eval()
    assert torch.allclose(layer(x), formula(layer, x), atol=1e-12)
    if options.get("dora"):
        return  # with dropout PEFT's DoRA drops from the base's part too: see the comparison with PEFT
    layer.train()
    torch.manual_seed(1)
    found = layer(x)
    torch.manual_seed(1)
    dropped = torch.nn.functional.dropout(x, 0.5)
    expected = formula(layer, dropped) + layer.base_layer(x) - layer.base_layer(dropped)
    assert torch.allclose(found, expected, atol=1e-12)


@every_form
def test_peft_saves_and_loads_all_factors(method, options, tmp_path):
    model = randomize(adapted(method, **options))
    model.save_pretrained(tmp_path)
    again = load_adapter(Net(), tmp_path)
    assert isinstance(again, PeftModel)
    assert torch.equal(model(inputs(3)), again(inputs(3)))
    assert not any(parameter.requires_grad for parameter in again.parameters())
    direct = PeftModel.from_pretrained(Net(), tmp_path, config=read_config(tmp_path))
    assert torch.equal(model(inputs(3)), direct(inputs(3)))


@pytest.mark.parametrize(("method", "init"), [("slora", "s_lora"), ("nlora", "n_lora"), ("inttune", "int_tune")])
def test_plain_peft_refuses_instead_of_dropping_the_core(method, init, tmp_path):
    adapted(method).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=init):
        PeftModel.from_pretrained(Net(), tmp_path)


@every_form
def test_merge_unmerge_and_disable(method, options):
    model, x = randomize(adapted(method, **options)), inputs(3)
    expected = model(x)
    with model.disable_adapter():
        assert torch.equal(model(x), Net()(x))
    model.merge_adapter()
    assert torch.allclose(model(x), expected, atol=1e-11)
    model.unmerge_adapter()
    assert torch.allclose(model(x), expected, atol=1e-11)
    merged = model.merge_and_unload(safe_merge=True)
    assert isinstance(merged, Net)
    assert torch.allclose(merged(x), expected, atol=1e-11)


@every_form
def test_two_adapters_side_by_side(method, options):
    model, x = randomize(adapted(method, **options)), inputs(3)
    expected = model(x)
    model.add_adapter("plain", LoraConfig(r=2, target_modules=["first"]))
    assert torch.equal(model(x), expected)
    model.set_adapter("plain")
    assert torch.equal(model(x), Net()(x))
    model.set_adapter("default")
    assert torch.equal(model(x), expected)
    model.delete_adapter("default")


def test_two_adapters_with_cores_at_once(tmp_path):
    model, x = adapted("nlora"), inputs(3)
    model.add_adapter("second", StructuredLoraConfig(r=3, target_modules=["first"], init_lora_weights="s_lora"))
    randomize(model)
    alone = model(x)
    model.base_model.set_adapter(["default", "second"])
    together = model(x)
    assert not torch.allclose(together, alone)
    model.merge_adapter(["default", "second"])
    assert torch.allclose(model(x), together, atol=1e-12)
    model.unmerge_adapter()
    assert torch.allclose(model(x), together, atol=1e-12)
    model.save_pretrained(tmp_path, selected_adapters=["second"])
    model.set_adapter("second")
    assert torch.allclose(load_adapter(Net(), tmp_path / "second")(x), model(x), atol=1e-12)


@pytest.mark.parametrize(("method", "options"), [form for form in FORMS if form[0] != "slora"])
def test_subtracting_the_start_gives_the_base_model(method, options):
    model, x = adapted(method, **options), inputs(3)
    assert not torch.allclose(model(x), Net()(x))
    model.float()
    subtract_update(model)
    assert torch.allclose(model(x.float()), Net().float()(x.float()), atol=1e-5)


def test_mixed_precision_keeps_the_dtype_of_the_base():
    model = randomize(adapted("nlora"))
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if ".lora_" in name else torch.bfloat16)
    for module, shape in itertools.product(("first",), [(3,), (2, 3)]):
        layer = model.get_submodule(f"base_model.model.{module}")
        assert layer(inputs(*shape).bfloat16()).dtype == torch.bfloat16
