"""merge: the streaming write and the check of each tensor need the memory of a matrix, however large the model is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages._weights.index import INDEX_FILE
from tests.stages.conftest import artifact, write_tiny_tokenizer
from tests.stages.trained_adapter import trained

SIDE, PER_SHARD, NUM_SHARDS = 2048, 16, 2
MATRIX_BYTES = 2 * SIDE**2
MEASURE = """
import json, sys, torch
from pathlib import Path
from pipeline.stage import Workspace
from stages._adaptation import merging, verification
from stages._adaptation.start import read_adapter

def kilobytes(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

def peak(work):
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = kilobytes("VmRSS")
    work()
    return 1024 * (kilobytes("VmHWM") - before)

torch.set_num_threads(1)
sources, out = merging.Sources(*map(Path, sys.argv[1:4])), Workspace(Path(sys.argv[4]))
changes = merging.read_changes(sources, read_adapter(sources.init_dir))
write = peak(lambda: merging.write_merged(sources.model_dir, changes, torch.bfloat16, out))
def check():
    verification.account_for_tensors(sources.model_dir, out.path, changes, torch.bfloat16)
    verification.layer_errors(sources.model_dir, out.path, changes)
print(json.dumps([write, peak(check)]))
"""


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """Shards of 134 MB."""
    folder = tmp_path / "model"
    weight_map: dict[str, str] = {}
    folder.mkdir()
    write_tiny_tokenizer(folder)
    for shard in range(NUM_SHARDS):
        names = [f"model.layers.{shard * PER_SHARD + n}.mlp.up_proj.weight" for n in range(PER_SHARD)]
        file = f"model-{shard}.safetensors"
        save_file({name: torch.full((SIDE, SIDE), 0.01).bfloat16() for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    return folder


@pytest.mark.slow
def test_peak_memory_is_below_a_shard(model_dir: Path, tmp_path: Path):
    sources = trained(artifact(model_dir, "prepare_model"), tmp_path, "nlora", residual="subtract")
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-c", MEASURE, *map(str, sources), str(out)]
    returned_at_once = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory, so that the peak is what was held
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | returned_at_once)
    write, check = json.loads(done.stdout)
    # the matrix as it is stored and as it is written, and in float32: weight, update, start; the check is in float64
    assert 2 * MATRIX_BYTES < write < 9 * MATRIX_BYTES < PER_SHARD * MATRIX_BYTES
    assert check < PER_SHARD * MATRIX_BYTES
