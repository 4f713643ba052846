"""Matrices in safetensors files: what is read, from which dtype, and how little of it."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import UserError
from stages._weights import matrix
from stages._weights.index import tensors_of
from stages._weights.matrix import FileMatrix, TensorMatrix

SHAPE = (50, 30)
INDICES = [range(5), range(2, 29, 3), [3, 1, 29], [7]]


@pytest.fixture(params=[torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def weight(request) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)).to(request.param)


@pytest.fixture
def stored(weight, tmp_path):
    """The weight in a file, between others."""
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3), "b.weight": weight, "c": torch.zeros(70)}, file)
    return tensors_of(file)["b.weight"]


@pytest.mark.parametrize("window_bytes", [1, 7 * 60, matrix.WINDOW_BYTES])
def test_file_and_memory_readers_agree(weight, stored, monkeypatch, window_bytes):
    monkeypatch.setattr(matrix, "WINDOW_BYTES", window_bytes)
    file, memory = FileMatrix(stored), TensorMatrix(weight)
    reads = [(file.full(), memory.full(), weight)]
    for index in INDICES:
        reads.append((file.rows(index), memory.rows(index), weight[list(index)]))
        reads.append((file.columns(index), memory.columns(index), weight[:, list(index)]))
    for from_file, from_memory, expected in reads:
        assert torch.equal(from_file, from_memory)
        assert torch.equal(from_file, expected.to(from_file.dtype))
        assert from_file.dtype == (torch.float64 if weight.dtype == torch.float64 else torch.float32)
        assert from_file.is_contiguous()
    assert all(map(torch.equal, file.blocks(16), memory.blocks(16)))
    assert torch.equal(torch.cat(list(file.blocks(16))), file.full())


def test_bytes_read_are_those_of_the_slices(stored):
    num_out, num_in = SHAPE
    size = stored.num_bytes // stored.num_elements
    for index in INDICES:
        reader = FileMatrix(stored)
        reader.rows(index)
        assert reader.bytes_read == len(index) * num_in * size
        reader.columns(index)
        assert reader.bytes_read == len(index) * (num_in + num_out) * size
    reader = FileMatrix(stored)
    reader.full()
    list(reader.blocks(16))
    assert reader.bytes_read == 2 * num_out * num_in * size


def test_what_is_read_may_be_written_to(stored):
    reader = FileMatrix(stored)
    before = reader.full()
    for read in (reader.rows(range(3)), reader.columns(range(3)), reader.full(), next(reader.blocks(4))):
        read.zero_()
    assert torch.equal(reader.full(), before)


def test_data_may_start_anywhere(weight, tmp_path):
    """Older writers did not pad the header, so that numbers lie at odd addresses."""
    data = weight.view(torch.uint8).numpy().tobytes()
    dtype = {value: key for key, value in matrix.TORCH_DTYPE.items()}[weight.dtype]
    header = json.dumps({"w": {"dtype": dtype, "shape": SHAPE, "data_offsets": [0, len(data)]}}).encode()
    header += b" " * ((7 - len(header)) % 8)
    file = tmp_path / "odd.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + data)
    reader = FileMatrix(tensors_of(file)["w"])
    assert torch.equal(reader.columns([1, 4]), TensorMatrix(weight).columns([1, 4]))
    assert torch.equal(reader.rows(range(9)), TensorMatrix(weight).rows(range(9)))


def test_a_quantised_weight_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(4, 4, dtype=torch.int8)}, file)
    with pytest.raises(UserError, match=r"stored as I8, expected one of F64, F32, BF16, F16"):
        FileMatrix(tensors_of(file)["w"])


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"version https://git-lfs.github.com/spec/v1\n", b"\2" + b"\0" * 7 + b"{x"]
)
def test_what_is_no_safetensors_file_is_named(tmp_path, content):
    """A file cut short, or git's pointer to one that was not fetched."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors: found no safetensors header; download it again"):
        tensors_of(file)


def test_a_truncated_file_is_named(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="bytes, its header expects"):
        tensors_of(file)
