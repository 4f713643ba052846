"""A fingerprint changes with what can change the result, and with nothing else."""

from pathlib import Path

import pytest

from pipeline.fingerprint import canonical_json, fingerprint
from pipeline.strict import LocalPath, StrictModel


class Old(StrictModel):
    rank: int = 8
    name: str


class New(StrictModel):
    rank: int = 8
    name: str
    sampling: str = "leading"


class Versioned(Old):
    VERSION = 2


class WithFile(StrictModel):
    data: LocalPath


def test_a_new_option_at_its_default_keeps_the_fingerprint():
    assert Old(name="a").canonical() == New(name="a").canonical()
    assert New(name="a", sampling="norm").canonical() != New(name="a").canonical()


def test_a_plugin_version_changes_it():
    assert Versioned(name="a").canonical() != Old(name="a").canonical()


def test_the_order_of_keys_does_not_matter_and_types_do():
    assert canonical_json({"a": 1, "b": [2.5, None, True]}) == canonical_json({"b": [2.5, None, True], "a": 1})
    assert canonical_json({"a": 1}) != canonical_json({"a": "1"}) != canonical_json({"a": True})


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), float("inf"), {1: "a"}, b"x", Path("/x")])
def test_what_has_no_canonical_form_raises(value):
    with pytest.raises(TypeError, match="no canonical form"):
        canonical_json({"key": value})


def test_every_part_counts():
    base = fingerprint("train", 1, {"a": 1}, {"model": "x"})
    others = [
        fingerprint("merge", 1, {"a": 1}, {"model": "x"}),
        fingerprint("train", 2, {"a": 1}, {"model": "x"}),
        fingerprint("train", 1, {"a": 2}, {"model": "x"}),
        fingerprint("train", 1, {"a": 1}, {"model": "y"}),
    ]
    assert len({base, *others}) == 5


def test_a_file_counts_by_its_content_not_its_place(tmp_path):
    for name, text in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(text)
    a, b, c = (WithFile(data=tmp_path / name).canonical() for name in "abc")
    assert a == b != c
    assert str(tmp_path) not in canonical_json(a)
