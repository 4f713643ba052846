"""What the store takes for an artifact."""

import json
import os
import time
from pathlib import Path

import pytest

from pipeline import store as stores
from pipeline.artifact import MANIFEST
from pipeline.errors import StepFailed
from pipeline.store import Store, damage, seal


def test_work_killed_between_its_manifest_and_its_new_name_is_no_artifact(tmp_path: Path):
    store = Store(tmp_path)
    partial, sealed = store.partial("add", "a" * 64), store.directory("add", "b" * 64)
    for folder in (partial, sealed):
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text("{}")
    assert list(store.artifacts()) == [sealed]
    assert list(store.partials()) == [partial]


def work(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "result.txt").write_text(text)
    (path / ".cache").mkdir()
    return path


def test_the_second_that_seals_does_not_destroy_the_first(tmp_path: Path):
    """Two machines that both believe they hold the lock, each with a folder of its own."""
    target = tmp_path / "sealed"
    seal(work(tmp_path / "one", "first"), target, {"by": "one"})
    seal(work(tmp_path / "two", "second"), target, {"by": "two"})
    assert (target / "result.txt").read_text() == "first" and damage(target, rehash=True) == []
    assert json.loads((target / MANIFEST).read_text())["by"] == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


@pytest.mark.parametrize("moment", ["hashing", "writing", "renaming"])
def test_the_second_finds_the_folder_gone_that_both_worked_in(moment, tmp_path: Path, monkeypatch):
    target, partial = tmp_path / "sealed", work(tmp_path / "x.partial", "shared")
    name = {"hashing": "describe_file", "writing": "_files", "renaming": "_sync_folder"}[moment]
    original = getattr(stores, name)

    def while_the_other_seals(path: Path) -> object:
        monkeypatch.setattr(stores, name, original)
        answer = original(path) if moment == "writing" else None
        seal(partial, target, {"by": "the first"})
        return original(path) if moment != "writing" else answer

    monkeypatch.setattr(stores, name, while_the_other_seals)
    seal(partial, target, {"by": "the second"})
    assert json.loads((target / MANIFEST).read_text())["by"] == "the first"
    assert damage(target, rehash=True) == [] and not partial.exists()


def test_what_is_in_the_way_and_no_artifact_is_named(tmp_path: Path):
    (tmp_path / "sealed").mkdir()
    (tmp_path / "sealed" / "note.txt").write_text("mine")
    with pytest.raises(StepFailed, match="sealed: is in the way and no artifact"):
        seal(work(tmp_path / "x.partial", "new"), tmp_path / "sealed", {})
    assert (tmp_path / "sealed" / "note.txt").exists() and (tmp_path / "x.partial" / "result.txt").exists()


def test_files_that_nfs_keeps_for_a_program_are_no_part_of_an_artifact(tmp_path: Path, monkeypatch):
    """The client gives a deleted file that is open a name of its own; its folder cannot be removed meanwhile."""
    partial = work(tmp_path / "x.partial", "new")
    (partial / ".cache" / ".nfs0001").write_text("open")
    (partial / ".cache" / "other").write_text("scratch")
    unlink = os.unlink

    def unlink_on_nfs(path: str, **options: int) -> None:
        if not str(path).rpartition("/")[2].startswith(".nfs"):
            unlink(path, **options)

    monkeypatch.setattr(os, "unlink", unlink_on_nfs)
    seal(partial, tmp_path / "sealed", {})
    assert json.loads((tmp_path / "sealed" / MANIFEST).read_text())["files"].keys() == {"result.txt"}
    assert damage(tmp_path / "sealed", rehash=True) == []


def test_what_another_machine_sealed_shows_a_little_later(tmp_path: Path, monkeypatch):
    store = Store(tmp_path)
    looks = iter([False, False, True, True])
    monkeypatch.setattr(stores, "is_on_network", lambda path: True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(Store, "is_sealed", lambda *_: next(looks))
    store.wait_for([("add", "a" * 64)])
    assert next(looks)
    monkeypatch.setattr(stores, "is_on_network", lambda path: False)
    store.wait_for([("add", "a" * 64)])
