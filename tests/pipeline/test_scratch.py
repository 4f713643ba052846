"""Temporary files and caches on a disk of the node's own, which need not be that of the store."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from pipeline import scratch
from pipeline.lock import Lock
from tests.pipeline.conftest import ROOT

TOY = "name: toy\ntracks: {a: {value: 1}}\n"


def test_temporary_files_and_caches_are_in_a_folder_that_is_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_SCRATCH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", "/before")
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/mine")
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    before = dict(os.environ)
    with scratch.own_scratch():
        (folder,) = tmp_path.iterdir()
        assert os.environ["TMPDIR"] == str(folder / "tmp") and (folder / "tmp").is_dir()
        assert os.environ["TRITON_CACHE_DIR"] == str(folder / "triton")
        assert os.environ["VLLM_CACHE_ROOT"] == "/mine"
        (folder / "triton").mkdir()
        (folder / "tmp" / "left").write_text("over")
    assert os.environ == before and list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_and_what_another_uses_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_SCRATCH", str(tmp_path))
    code = "import os; from pipeline.scratch import own_scratch\nwith own_scratch(): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 9
    (left,) = tmp_path.iterdir()
    used = tmp_path / "nlora-pipeline-used"
    used.mkdir()
    (tmp_path / "mine").mkdir()
    with Lock(used / "lock"), scratch.own_scratch():
        assert not left.exists() and used.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "nlora-pipeline-used"]


@pytest.mark.parametrize("value", ["", "/nowhere/at all"])
def test_a_folder_that_is_not_there_is_named_before_any_work(value, recipe, pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_SCRATCH", value)
    refused = pipeline("run", recipe(TOY))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1 and f"scratch {value!r}: is no folder on" in refused.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounts a file system of its own")
@pytest.mark.parametrize("mounted", ["store", "scratch"])
def test_store_and_scratch_may_be_on_two_file_systems(mounted, recipe, command, tmp_path, monkeypatch):
    for name in ("store", "scratch", "kept"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("PIPELINE_SCRATCH", str(tmp_path / "scratch"))
    script = (
        f'mount -t tmpfs tmpfs "$0/{mounted}" && "$@" && ls "$0/scratch" >"$0/left" && cp -r "$0/store/." "$0/kept"'
    )
    words = ["unshare", "--mount", "sh", "-c", script, str(tmp_path), *command("run", recipe(TOY))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (manifest,) = (tmp_path / "kept").glob("number/*/manifest.json")
    assert json.loads(manifest.read_text())["metrics"]["temporary"].startswith(str(tmp_path / "scratch"))
    assert (tmp_path / "left").read_text() == ""
