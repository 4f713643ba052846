"""Time and peak memory of merging on the shapes of Mistral-7B, as one Markdown table.

    python -m benchmarks.merge [--dir DIR] [--layers 32] [--rank 128]

The base is holes in bfloat16 (zeros that take no disk), the adapter a LoRA start; the merged model is written for real
(15 GB) and removed again. Measured in this process, apart: the streaming write, and the check of every tensor. The
comparison of answers loads the whole model in float32 and is left out.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.init_case import peak_bytes
from benchmarks.model_files import SHARD_BYTES, mistral_7b, write_model
from pipeline.machine import cpu_count
from pipeline.stage import Resources, Workspace
from stages import init_adapter
from stages._adaptation import merging, verification
from stages._adaptation.start import write_adapter


def measured(work: Callable[[], Any]) -> tuple[float, float]:
    """(seconds, peak MiB above what the process had before)."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before, began = peak_bytes(), time.perf_counter()
    work()
    return time.perf_counter() - began, (peak_bytes() - before) / 2**20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rank", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(cpu_count())
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        model_dir = write_model(Path(folder) / "model", mistral_7b(arguments.layers), sparse=True)
        init, out = Workspace(Path(folder) / "init"), Workspace(Path(folder) / "merged")
        init.path.mkdir()
        out.path.mkdir()
        chosen = {"adapter": {"method": "lora", "rank": arguments.rank}, "probe": False}
        config = init_adapter.Config.model_validate(chosen)
        write_adapter(config, model_dir, init, Resources())
        changes = merging.read_changes(merging.Sources(model_dir, init.path, init.path), config.adapter)
        write = measured(lambda: merging.write_merged(model_dir, changes, torch.bfloat16, out))

        def check() -> None:
            verification.account_for_tensors(model_dir, out.path, changes, torch.bfloat16)
            verification.layer_errors(model_dir, out.path, changes)

        print("| what | seconds | peak MiB | share of a shard |\n|---|---:|---:|---:|")
        for name, (seconds, peak) in {"write": write, "check of every tensor": measured(check)}.items():
            print(f"| {name} | {seconds:.0f} | {peak:,.0f} | {peak * 2**20 / SHARD_BYTES:.2f} |")


if __name__ == "__main__":
    main()
