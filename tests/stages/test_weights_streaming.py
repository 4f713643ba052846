"""Files written one tensor after the other: equal to those written at once, and never half there."""

import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from stages._weights.streaming import StreamWriter

TENSORS = {
    "layer.10.lora_A.weight": torch.arange(21.0).view(3, 7),
    "layer.2.lora_A.weight": torch.randn(5, 3),
    "layer.2.lora_magnitude_vector": torch.ones(1),
}


def test_the_file_is_what_safetensors_would_have_written(tmp_path):
    save_file(TENSORS, tmp_path / "whole.safetensors")
    file = tmp_path / "streamed.safetensors"
    with StreamWriter(file, [*TENSORS, "layer.3.that.never.comes"]) as writer:
        for name, tensor in TENSORS.items():
            assert not file.exists()
            writer.add(name, tensor)
    whole, streamed = load_file(tmp_path / "whole.safetensors"), load_file(file)
    assert streamed.keys() == whole.keys()
    assert all(torch.equal(streamed[name], whole[name]) for name in whole)
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
        assert opened.get_slice("layer.10.lora_A.weight").get_shape() == [3, 7]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["streamed.safetensors", "whole.safetensors"]


def test_everything_becomes_float32_and_contiguous(tmp_path):
    given = torch.randn(4, 6, dtype=torch.float64).T
    with StreamWriter(tmp_path / "a.safetensors", ["a"]) as writer:
        writer.add("a", given)
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], given.float())


def test_the_header_fits_into_its_room(tmp_path):
    names = [f"base_model.model.model.layers.{number}.mlp.gate_proj.lora_A.weight" for number in range(300)]
    with StreamWriter(tmp_path / "a.safetensors", names) as writer:
        for name in names:
            writer.add(name, torch.ones(1, 1))
    assert load_file(tmp_path / "a.safetensors").keys() == set(names)


def test_an_error_leaves_no_file_of_that_name(tmp_path):
    file = tmp_path / "a.safetensors"
    with pytest.raises(ZeroDivisionError), StreamWriter(file, ["a", "b"]) as writer:
        writer.add("a", torch.ones(3))
        raise ZeroDivisionError
    assert not file.exists()


def test_a_killed_writer_leaves_nothing_that_looks_complete(tmp_path):
    code = (
        "import os, signal, sys, pathlib, torch\n"
        "from stages._weights.streaming import StreamWriter\n"
        "writer = StreamWriter(pathlib.Path(sys.argv[1]), ['a', 'b'])\n"
        "writer.add('a', torch.ones(1000, 1000))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    file = tmp_path / "a.safetensors"
    assert subprocess.run([sys.executable, "-c", code, file]).returncode == -9
    (left,) = tmp_path.iterdir()
    assert left != file
    assert left.stat().st_size > 1_000_000
    with pytest.raises(SafetensorError):
        load_file(left)
