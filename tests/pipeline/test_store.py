"""What the store takes for an artifact."""

from pathlib import Path

from pipeline.artifact import MANIFEST
from pipeline.store import Store


def test_work_killed_between_its_manifest_and_its_new_name_is_no_artifact(tmp_path: Path):
    store = Store(tmp_path)
    partial, sealed = store.partial("add", "a" * 64), store.directory("add", "b" * 64)
    for folder in (partial, sealed):
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text("{}")
    assert list(store.artifacts()) == [sealed]
    assert list(store.partials()) == [partial]
