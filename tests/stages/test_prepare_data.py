"""Sources of training data: generated, files of every kind, and a hub (played by a local server)."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.stage import Resources
from stages import prepare_data

REVISION = "a" * 40
GENERATED = {"kind": "generated", "generator": "arithmetic", "seed": 1, "num_train": 20}
ROWS = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(6)]


def configured(source: dict, **more) -> prepare_data.Config:
    return prepare_data.Config.model_validate_json(json.dumps({"source": source, **more}))


def run(config, workspace) -> dict:
    return prepare_data.run(config, prepare_data.Inputs(), workspace, Resources())["num_rows"]


def rows(workspace, split: str) -> list[dict]:
    return [json.loads(line) for line in (workspace / f"{split}.jsonl").read_text().splitlines()]


def test_generated(workspace):
    counts = run(configured({**GENERATED, "num_validation": 5, "num_test": 7}), workspace)
    assert counts == {"train": 20, "validation": 5, "test": 7}
    assert len(rows(workspace, "test")) == 7 and set(rows(workspace, "train")[0]) == {"question", "answer"}


def test_generator_options_are_typed_and_hashed_in_canonical_form():
    plain = configured(GENERATED)
    assert configured({**GENERATED, "options": {"max_steps": 3}}).canonical() == plain.canonical()  # 3 is the default
    assert configured({**GENERATED, "options": {"max_steps": 2}}).canonical() != plain.canonical()
    with pytest.raises(ValidationError, match="max_stps: unknown option, expected one of min_steps, max_steps"):
        configured({**GENERATED, "options": {"max_stps": 2}})
    with pytest.raises(ValidationError, match="max_steps: found '2', expected a valid integer; max_number: found 1"):
        configured({**GENERATED, "options": {"max_steps": "2", "max_number": 1}})
    with pytest.raises(ValidationError, match="min_steps 3 is above max_steps 2"):
        configured({**GENERATED, "options": {"min_steps": 3, "max_steps": 2}})
    with pytest.raises(ValidationError, match="unknown generator 'algebra', known: arithmetic"):
        configured({**GENERATED, "generator": "algebra"})


def test_a_config_survives_the_way_to_the_child_process():
    config = configured({**GENERATED, "options": {"max_steps": 2}})
    assert prepare_data.Config.model_validate_json(config.model_dump_json()) == config


def write_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def write_json(path):
    path.write_text(json.dumps(ROWS))


def write_csv(path):
    path.write_text("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in ROWS))


def write_parquet(path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)


@pytest.mark.parametrize("write", [write_jsonl, write_json, write_csv, write_parquet], ids=lambda w: w.__name__[6:])
def test_files(workspace, tmp_path, write):
    file = tmp_path / f"data.{write.__name__[6:]}"
    write(file)
    assert run(configured({"kind": "files", "train": str(file), "test": str(file)}), workspace) == {
        "train": 6,
        "test": 6,
    }
    assert rows(workspace, "train") == ROWS


@pytest.mark.parametrize("write", [write_jsonl, write_json, write_csv, write_parquet], ids=lambda w: w.__name__[6:])
def test_slices_of_files(workspace, tmp_path, write):
    file = tmp_path / f"data.{write.__name__[6:]}"
    write(file)
    source = {"kind": "files", "train": f"{file}[:4]", "validation": f"{file}[4:5]", "test": f"{file}[5:]"}
    assert prepare_data.preflight(configured(source), Resources(), {}) == []
    assert run(configured(source), workspace) == {"train": 4, "validation": 1, "test": 1}
    assert [rows(workspace, split) for split in ("train", "validation", "test")] == [ROWS[:4], ROWS[4:5], ROWS[5:]]


def test_a_slice_is_its_files_content_and_its_bounds(tmp_path):
    def identity(name: str) -> dict:
        return configured({"kind": "files", "train": str(tmp_path / name)}).canonical()["source"]["train"]

    write_jsonl(tmp_path / "a.jsonl")
    write_jsonl(tmp_path / "b.jsonl")
    whole = identity("a.jsonl")
    assert whole == {"content": hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()}
    assert identity("a.jsonl[:2]") == identity("b.jsonl[0:2]") == {**whole, "rows": [0, 2]}
    assert identity("a.jsonl[2:]") == {**whole, "rows": [2, None]}


def test_carving_off_validation_rows(workspace, tmp_path):
    write_jsonl(tmp_path / "data.jsonl")
    source = {"kind": "files", "train": str(tmp_path / "data.jsonl")}
    assert run(configured(source, carve_validation=2), workspace) == {"train": 4, "validation": 2}
    train, validation = rows(workspace, "train"), rows(workspace, "validation")
    assert sorted([*train, *validation], key=ROWS.index) == ROWS
    run(configured(source, carve_validation=2), workspace)
    assert rows(workspace, "validation") == validation
    run(configured(source, carve_validation=2, seed=3), workspace)
    assert rows(workspace, "validation") != validation
    with pytest.raises(UserError, match="6 of 6 training rows leave none"):
        run(configured(source, carve_validation=6), workspace)


def test_carving_beside_an_own_validation_split_is_refused():
    with pytest.raises(ValidationError, match="already has a validation split"):
        configured({**GENERATED, "num_validation": 2}, carve_validation=2)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"a": 1}\n{"a": \n', "x.jsonl:2: not JSON"),
        ("x.jsonl", "[1, 2]\n", "x.jsonl:1: found a list, expected an object"),
        ("x.json", '{"a": 1}', "x.json: found an object, expected a list"),
        ("x.json", '[{"a": 1}, {"a": }]', "x.json: after row 1: not JSON"),
        ("x.json", '[{"a": 1}, 2]', "x.json: row 2: found int, expected an object"),
        ("x.json", '[{"a": 1}', "x.json: after row 1: not JSON: expected ']'"),
        ("x.json", '[{"a": 1}] x', "x.json: after row 1: not JSON: found something after"),
        ("x.csv", "a,b\n1,2\n3\n", "x.csv:3: not 2 cells"),
        ("x.parquet", "text", "x.parquet: not a Parquet file"),
        ("x.jsonl", "", "train: the source has no rows"),
    ],
)
def test_broken_files_are_named_with_their_line(workspace, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        run(configured({"kind": "files", "train": str(tmp_path / name)}), workspace)


def test_missing_and_unknown_files_in_preflight(tmp_path):
    source = {"kind": "files", "train": str(tmp_path / "no.jsonl"), "test": str(tmp_path / "x.xlsx")}
    missing, unknown = prepare_data.preflight(configured(source), Resources(), {})
    assert missing.startswith("source.train: ") and "no.jsonl does not exist" in missing
    assert "cannot read .xlsx, known: .jsonl, .json, .parquet, .csv" in unknown
    percent = {"kind": "files", "train": str(tmp_path / "x.jsonl[10%:]")}
    [wrong] = prepare_data.preflight(configured(percent), Resources(), {})
    assert "(a slice is [start:stop], in rows)" in wrong


def test_a_branch_is_no_revision():
    with pytest.raises(ValidationError, match="revision"):
        configured({"kind": "hub", "name": "me/sums", "revision": "main"})


class FakeHub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's API as a snapshot download asks for: one data set with one file."""

    DATA = "".join(json.dumps(row) + "\n" for row in ROWS).encode()

    def do_GET(self):
        status, body = self.answer()
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "ETag": f'"{"1" * 40}"', "X-Repo-Commit": REVISION}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 (the name http.server calls)

    def answer(self) -> tuple[int, bytes]:
        if self.path.startswith(f"/api/datasets/me/sums/tree/{REVISION}"):
            return 200, json.dumps(
                [{"type": "file", "oid": "1" * 40, "size": len(self.DATA), "path": "train.jsonl"}]
            ).encode()
        if self.path == f"/datasets/me/sums/resolve/{REVISION}/train.jsonl":
            return 200, self.DATA
        return (200, b"{}") if self.path in ("/", f"/api/datasets/me/sums/revision/{REVISION}") else (404, b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def hub_url() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


ASK = """
import json, sys
from pathlib import Path
from pipeline.stage import Resources, Workspace
from stages import prepare_data
config = prepare_data.Config.model_validate_json(sys.argv[1])
print(json.dumps(prepare_data.preflight(config, Resources(), {})))
if len(sys.argv) > 2:
    prepare_data.run(config, prepare_data.Inputs(), Workspace(Path(sys.argv[2])), Resources())
"""


def ask(tmp_path, source: dict, *out: str, **environment: str) -> list[str]:
    """Preflight, and run if there is a folder for it, in a process of its own: hub settings are read once."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env = {**inherited, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-c", ASK, json.dumps({"source": source}), *out]
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


def test_hub_online_then_offline(tmp_path, workspace, hub_url):
    source = {"kind": "hub", "name": "me/sums", "revision": REVISION, "train": "train[:4]", "test": "train[4:]"}
    assert ask(tmp_path, source, str(workspace.path), HF_ENDPOINT=hub_url) == []
    assert rows(workspace, "train") == ROWS[:4] and rows(workspace, "test") == ROWS[4:]
    (workspace / "train.jsonl").unlink()
    assert ask(tmp_path, source, str(workspace.path), HF_HUB_OFFLINE="1") == []
    assert rows(workspace, "train") == ROWS[:4]
    [problem] = ask(tmp_path, {**source, "revision": "b" * 40}, HF_HUB_OFFLINE="1")  # another commit is not served
    assert "data set me/sums@bbbbbbbbbbbb is not in the hub cache" in problem and "HF_HUB_OFFLINE is set" in problem
    next((tmp_path / "hf" / "hub").rglob("train.jsonl")).unlink()
    assert len(ask(tmp_path, source, HF_HUB_OFFLINE="1")) == 1  # a download that was cut off does not count


def test_hub_that_cannot_be_reached_or_does_not_know_the_name(tmp_path, hub_url):
    source = {"kind": "hub", "name": "me/none", "revision": REVISION}
    [unknown] = ask(tmp_path, source, HF_ENDPOINT=hub_url)
    assert unknown.endswith("answered 404; check name and revision, and HF_TOKEN if it is gated")
    [unreachable] = ask(tmp_path, source, HF_ENDPOINT="http://127.0.0.1:9")
    assert "is not cached and http://127.0.0.1:9 cannot be reached" in unreachable and "kind: files" in unreachable


def test_an_unreachable_hub_is_asked_once_and_given_up_on_quickly(monkeypatch):
    from stages._data import hub

    def hang(url: str) -> str:
        time.sleep(10)
        return "200"

    monkeypatch.setattr(hub, "_answer", hang)
    monkeypatch.setenv("HF_ENDPOINT", "http://hangs.invalid")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    started = time.monotonic()
    assert all("no answer" in (hub.problem(f"me/{i}", REVISION) or "") for i in range(5))
    assert time.monotonic() - started < 2
