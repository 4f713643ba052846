"""Three-factor adapters inside PEFT: outputs, gradients, saving, merging, freezing."""

import itertools

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from stages._peft.config import StructuredLoraConfig, read_config
from stages._peft.layer import add_update
from stages._peft.load import adapted_layers, load_adapter, subtract_update

RANK, NUM_IN, NUM_OUT = 4, 10, 14


class Net(nn.Module):
    """Two linear layers, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(NUM_IN, NUM_OUT, dtype=torch.float64)
        self.second = nn.Linear(NUM_OUT, NUM_IN, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def adapted(init: str, **options) -> PeftModel:
    config = StructuredLoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=["first", "second"], init_lora_weights=init, **options
    )
    return get_peft_model(Net(), config)


def randomize(model: PeftModel) -> PeftModel:
    """Give every factor a value, as training would."""
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if ".lora_" in name:
                generator = torch.Generator().manual_seed(number)
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, NUM_IN, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("num_tokens", [3, 12, 40])
@pytest.mark.parametrize(("num_in", "num_out"), [(10, 14), (14, 10)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_every_order_of_products_gives_the_same_sum_and_gradients(num_tokens, num_in, num_out, scale):
    generator = torch.Generator().manual_seed(0)
    shapes = [(num_tokens, num_out), (num_tokens, num_in), (RANK, num_in), (RANK, RANK), (num_out, RANK)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]

    def plain(result, x, a, n, b):
        return result + scale * x @ a.T @ n.T @ b.T

    def ours(result, x, a, n, b):
        return add_update(result, x, a, n, b, scale)

    assert torch.allclose(ours(*tensors), plain(*tensors))
    assert torch.autograd.gradcheck(ours, tensors)


@pytest.mark.parametrize("init", ["n_lora", "s_lora", "int_tune"])
def test_output_is_the_formula(init):
    model = randomize(adapted(init))
    net, x = Net(), inputs(2, 5)
    layers = dict(adapted_layers(model))

    def layer(name: str, base: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        a, n, b = (getattr(layers[name], f"lora_{factor}")["default"].weight for factor in "ANB")
        return base(x) + 2.0 * x @ a.T @ n.T @ b.T

    expected = layer("second", net.second, torch.tanh(layer("first", net.first, x)))
    assert torch.allclose(model(x), expected, atol=1e-12)


def test_starts_follow_the_reference_formulas():
    layer = dict(adapted_layers(adapted("n_lora")))["first"]
    weight = Net().first.weight
    assert torch.equal(layer.lora_A["default"].weight, weight[:RANK])
    assert torch.equal(layer.lora_N["default"].weight, weight[:RANK, :RANK])
    assert torch.equal(layer.lora_B["default"].weight, weight[:, :RANK])
    assert torch.equal(adapted("s_lora")(inputs(3)), Net()(inputs(3)))


def test_peft_saves_and_loads_all_three_factors(tmp_path):
    model = randomize(adapted("n_lora"))
    model.save_pretrained(tmp_path)
    again = load_adapter(Net(), tmp_path)
    assert isinstance(again, PeftModel)
    assert torch.equal(model(inputs(3)), again(inputs(3)))
    assert not any(parameter.requires_grad for parameter in again.parameters())
    direct = PeftModel.from_pretrained(Net(), tmp_path, config=read_config(tmp_path))
    assert torch.equal(model(inputs(3)), direct(inputs(3)))


def test_plain_peft_refuses_instead_of_dropping_the_core(tmp_path):
    adapted("n_lora").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="n_lora"):
        PeftModel.from_pretrained(Net(), tmp_path)


def test_merge_unmerge_and_disable():
    model, x = randomize(adapted("s_lora")), inputs(3)
    expected = model(x)
    with model.disable_adapter():
        assert torch.equal(model(x), Net()(x))
    model.merge_adapter()
    assert torch.allclose(model(x), expected, atol=1e-12)
    model.unmerge_adapter()
    assert torch.allclose(model(x), expected, atol=1e-12)
    merged = model.merge_and_unload(safe_merge=True)
    assert isinstance(merged, Net)
    assert torch.allclose(merged(x), expected, atol=1e-12)


def test_two_adapters_side_by_side():
    model, x = randomize(adapted("n_lora")), inputs(3)
    expected = model(x)
    model.add_adapter("plain", LoraConfig(r=2, target_modules=["first"]))
    assert torch.equal(model(x), expected)
    model.set_adapter("plain")
    assert torch.equal(model(x), Net()(x))
    model.set_adapter("default")
    assert torch.equal(model(x), expected)
    model.delete_adapter("default")


def test_inttune_trains_the_core_alone(tmp_path):
    model = adapted("int_tune")
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".lora_N." in name for name in trained)
    model.save_pretrained(tmp_path)
    again = load_adapter(Net(), tmp_path, trainable=True)
    assert trained == [name for name, parameter in again.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(("init", "keeps_inputs"), [("n_lora", True), ("int_tune", False)])
def test_inttune_keeps_no_inputs_for_backward(init, keeps_inputs):
    model, x = randomize(adapted(init)).get_submodule("base_model.model.first"), inputs(6)
    kept: list[torch.Size] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(x)
    assert (torch.Size([6, NUM_IN]) in kept) == keeps_inputs


@pytest.mark.parametrize("init", ["n_lora", "int_tune"])
def test_subtracting_the_start_gives_the_base_model(init):
    model, x = adapted(init), inputs(3)
    assert not torch.allclose(model(x), Net()(x))
    model.float()
    subtract_update(model)
    assert torch.allclose(model(x.float()), Net().float()(x.float()), atol=1e-5)


def test_mixed_precision_keeps_the_dtype_of_the_base():
    model = randomize(adapted("n_lora"))
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if ".lora_" in name else torch.bfloat16)
    for module, shape in itertools.product(("first",), [(3,), (2, 3)]):
        layer = model.get_submodule(f"base_model.model.{module}")
        assert layer(inputs(*shape).bfloat16()).dtype == torch.bfloat16
