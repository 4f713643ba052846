"""One start of adapters, measured in the process that runs it: a line of the table of `benchmarks.init`."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.machine import cpu_count
from pipeline.stage import Resources, Workspace
from stages import init_adapter
from stages._adaptation.start import targeted_weights, write_adapter

RANK = 128


def ours(model_dir: Path, adapter: dict[str, Any], out: Path) -> dict[str, Any]:
    """The init stage's own work without its probe: read the shards, start, write the adapter."""
    config = init_adapter.Config.model_validate({"adapter": {"rank": RANK, **adapter}, "probe": False})
    seconds, metrics = _timed(lambda: write_adapter(config, model_dir, Workspace(out), Resources()))
    return {"seconds": seconds, "num_matrices": metrics["num_matrices"], "bytes_read": metrics["bytes_read"]}


def peft(model_dir: Path, adapter: dict[str, Any], out: Path) -> dict[str, Any]:
    """PEFT's `get_peft_model` and `save_pretrained` on linear layers that have their weights already."""
    from peft import LoraConfig, get_peft_model

    torch.set_num_threads(cpu_count())
    selection = init_adapter.Config.model_validate(
        {"adapter": {"method": "lora", "rank": RANK, "targets": adapter["targets"]}}
    )
    weights = targeted_weights(model_dir, selection.adapter)  # type: ignore[arg-type]
    model = nn.ModuleDict({name.rpartition(".")[2]: _linear(weight.full()) for name, weight in weights.items()})
    config = LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=list(model), init_lora_weights=adapter["init_lora_weights"]
    )
    seconds, _ = _timed(lambda: get_peft_model(model, config).save_pretrained(out))
    bytes_read = sum(weight.bytes_read for weight in weights.values())
    return {"seconds": seconds, "num_matrices": len(weights), "bytes_read": bytes_read}


def _linear(weight_OI: torch.Tensor) -> nn.Linear:
    num_out, num_in = weight_OI.shape
    layer = nn.Linear(num_in, num_out, bias=False, device="meta", dtype=torch.bfloat16)
    layer.weight = nn.Parameter(weight_OI.bfloat16())
    return layer


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def peak_bytes() -> int:
    """The most physical memory that this process has had, mapped files included."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["ours", "peft"])
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("adapter", type=json.loads)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.model_dir.parent) as folder:
        measure = {"ours": ours, "peft": peft}[arguments.kind]
        measured = measure(arguments.model_dir, arguments.adapter, Path(folder))
        print(json.dumps({**measured, "peak_bytes": peak_bytes()}))
