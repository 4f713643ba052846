"""`export`: a folder appears when all of it is there, and never before; what cannot be exported is said."""

import json
import stat

import pytest

TOY = "name: toy\ntracks: {a: {value: 7}}\n"


@pytest.fixture
def toy(recipe, pipeline):
    """A recipe that ran."""
    path = recipe(TOY)
    assert pipeline("run", path).returncode == 0
    return path


def test_a_steps_result_appears_with_its_origin(toy, pipeline, tmp_path):
    target = tmp_path / "deep" / "out"
    done = pipeline("export", toy, "a/number", "--to", target, "--rank", 2)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in target.iterdir()) == ["export.json", "number.txt"]
    assert (target / "number.txt").read_text() == "77"
    assert stat.filemode((target / "number.txt").stat().st_mode) == "-rw-r--r--"
    report = json.loads((target / "export.json").read_text())
    assert (report["recipe"], report["step"], report["stage"], report["format"]) == (
        "toy",
        "a/number",
        "number",
        "digits",
    )
    assert len(report["fingerprint"]) == 64
    assert "error: 0.25" in done.stdout
    assert "matrices: 1, each in export.json" in done.stdout
    assert "notes: a note" in done.stdout
    assert str(target) in done.stdout


def test_a_folder_with_something_in_it_is_left_alone(toy, pipeline, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    assert pipeline("export", toy, "a/number", "--to", target).returncode == 0
    again = pipeline("export", toy, "a/number", "--to", target)
    assert again.returncode == 2
    assert "is there already, expected an empty or a new folder" in again.stderr
    assert (target / "number.txt").read_text() == "7"


def test_a_failed_export_leaves_nothing(toy, pipeline, tmp_path):
    (tmp_path / "exports" / ".out.partial").mkdir(parents=True)  # of one that was killed
    failed = pipeline("export", toy, "a/number", "--to", tmp_path / "exports" / "out", "--format", "broken")
    assert failed.returncode == 1
    assert failed.stderr == "the export was asked to fail\n"
    assert not list((tmp_path / "exports").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sum"], "step sum: found nothing to export, expected one of a/number (digits, broken)"),
        (["b/number"], "not in the plan of toy"),
        (["a/number", "--format", "gguf"], "--format: found gguf, expected 'digits' or 'broken'"),
        (["a/number", "--dtype", "float32"], "--dtype: found float32, but a/number has no such choice; leave it out"),
        (["a/number", "--set", "tracks.a.value=8"], "step a/number: is not done yet; first python -m pipeline run"),
    ],
)
def test_what_cannot_be_exported_is_one_line(words, message, toy, pipeline, tmp_path):
    refused = pipeline("export", toy, *words, "--to", tmp_path / "out")
    assert refused.returncode == 2
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_damaged_result_is_not_handed_out(toy, pipeline, tmp_path):
    next((tmp_path / "store" / "number").glob("*/number.txt")).write_text("wrong")
    refused = pipeline("export", toy, "a/number", "--to", tmp_path / "out")
    assert refused.returncode == 1
    assert "5 bytes, expected 1" in refused.stderr
    assert not (tmp_path / "out").exists()
