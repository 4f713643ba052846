"""What a core between A and B costs in training, beside PEFT's own layers, as one Markdown table.

    python -m benchmarks.layer [--rounds 15] [--tokens 512] [--size 4096] [--rank 128]

Forward and backward of one adapted linear layer in float32 on the CPU. The layers take turns, one pass of each per
round; the number is the median of the ratios of a round's time to the plain LoRA's (for DoRA: PEFT's DoRA's) of the
same round. Memory is what autograd keeps from forward to backward beyond parameters, of this layer alone. Exit code 1
when a number misses its bar.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from pipeline.machine import cpu_count
from stages._peft.config import StructuredLoraConfig

MAX_MORE_TIME = 1.03
"""Of NLoRA's layer over plain LoRA's."""


@dataclass
class Layer:
    """One line: a layer and its times."""

    name: str
    module: nn.Module
    peer: str
    seconds: list[float] = field(default_factory=list)

    def measure(self, x: torch.Tensor) -> None:
        """One forward and backward pass, from and to a layer's neighbours."""
        self.module.zero_grad()
        x.grad = None
        began = time.perf_counter()
        output = self.module(x)
        output.backward(output.detach())
        self.seconds.append(time.perf_counter() - began)

    def kept_bytes(self, x: torch.Tensor) -> int:
        """Bytes of the activations that autograd keeps, each storage once."""
        parameters = {parameter.untyped_storage().data_ptr() for parameter in self.module.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = self.module(x)  # alive until all is counted, so that no address is given twice
        del output
        return sum(kept.values())


def main() -> int:
    """Measure, print the table, and tell whether every bar is met."""
    arguments = parse_arguments()
    torch.set_num_threads(cpu_count())
    torch.manual_seed(0)
    layers = {layer.name: layer for layer in all_layers(arguments.size, arguments.rank)}
    x = torch.randn(1, arguments.tokens, arguments.size, requires_grad=True)
    for _ in range(1 + arguments.rounds):
        for layer in layers.values():
            layer.measure(x)
    print("| layer | ms, fastest | time over its peer's | peer | kept for backward | bar |")
    print("|---|---:|---:|---|---:|---:|")
    for layer in layers.values():
        fastest = min(layer.seconds[1:]) * 1e3
        bar = f"{MAX_MORE_TIME:g}" if layer.name == "nlora" else ""
        print(
            f"| {layer.name} | {fastest:.1f} | {ratio(layer, layers):.3f} | {layer.peer} "
            f"| {layer.kept_bytes(x) / 2**20:.2f} MiB | {bar} |"
        )
    met = ratio(layers["nlora"], layers) <= MAX_MORE_TIME
    kept = layers["inttune"].kept_bytes(x), 4 * arguments.tokens * arguments.rank
    print(f"\n{arguments.rounds} rounds, {cpu_count()} cores; nlora's bar is {'met' if met else 'MISSED'}; ", end="")
    print(f"inttune keeps {kept[0]:,} bytes, A x alone is {kept[1]:,}: {'met' if kept[0] <= kept[1] else 'MISSED'}")
    return 0 if met and kept[0] <= kept[1] else 1


def all_layers(size: int, rank: int) -> Iterator[Layer]:
    """The table."""
    common: dict[str, Any] = {"r": rank, "lora_alpha": rank, "target_modules": ["layer"]}
    weight_OI = torch.randn(size, size) * 0.02

    def adapted(config: LoraConfig) -> nn.Module:
        model = nn.ModuleDict({"layer": nn.Linear(size, size, bias=False)})
        with torch.no_grad():
            model["layer"].weight.copy_(weight_OI)
        return get_peft_model(model, config).base_model.model["layer"]

    def ours(init: str, **options: Any) -> nn.Module:
        return adapted(StructuredLoraConfig(**common, init_lora_weights=init, **options))

    yield Layer("PEFT lora", adapted(LoraConfig(**common)), "PEFT lora")
    yield Layer("nlora", ours("n_lora"), "PEFT lora")
    yield Layer("nlora, order: BAN", ours("n_lora", core_order="BAN"), "PEFT lora")
    yield Layer("inttune", ours("int_tune"), "PEFT lora")
    yield Layer("PEFT dora", adapted(LoraConfig(**common, use_dora=True)), "PEFT dora")
    yield Layer("nlora, dora: true", ours("n_lora", use_dora=True), "PEFT dora")


def ratio(layer: Layer, layers: dict[str, Layer]) -> float:
    """The median over rounds of its time to its peer's; the first pass of each is a warm-up."""
    pairs = zip(layer.seconds[1:], layers[layer.peer].seconds[1:], strict=True)
    return median(own / peer for own, peer in pairs)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=128)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
