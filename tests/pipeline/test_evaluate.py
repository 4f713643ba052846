"""`evaluate` trains nothing, `--rescore` asks nothing, `--track` is a recipe with that track alone."""

import json
from pathlib import Path

import pytest

from tests.pipeline.test_servers import starts

TWO_TRACKS = "name: toy\ncount: true\ntracks: {a: {value: 1, ask: true}, b: {value: 2, ask: true}}\n"


def manifests(store: Path, stage: str) -> dict[Path, dict]:
    """By folder."""
    return {path.parent: json.loads(path.read_text()) for path in store.glob(f"{stage}/*/manifest.json")}


@pytest.fixture
def trained(recipe, pipeline) -> Path:
    """A recipe of which one track's model is there, and nothing else."""
    path = recipe(TWO_TRACKS)
    assert pipeline("run", path, "--until", "a/number").returncode == 0
    return path


def test_it_does_not_train(trained, pipeline, tmp_path):
    refused = pipeline("evaluate", trained)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"b/number: is not done, and evaluate does not train; first: python -m pipeline run {trained} "
        f"--store {tmp_path}/store --until b/number; --track NAME evaluates one track alone\n"
    )
    assert not (tmp_path / "store" / "ask").exists()


def test_it_asks_scores_and_reports_what_is_trained(trained, pipeline, tmp_path):
    assert pipeline("run", trained, "--until", "b/number").returncode == 0
    done = pipeline("evaluate", trained)
    assert done.returncode == 0, done.stderr
    assert "total 7.0" in done.stdout and "report.html" in done.stdout
    again = pipeline("evaluate", trained)
    assert "nothing to do: all 11 steps" in again.stdout and "total 7.0" in again.stdout
    assert "nothing to do" in pipeline("run", trained).stdout


def test_a_track_alone_has_a_report_of_its_own(trained, pipeline, tmp_path):
    done = pipeline("evaluate", trained, "--track", "a")
    assert done.returncode == 0, done.stderr
    assert "total 3.0" in done.stdout and "b/" not in done.stdout
    assert "nothing to do" in pipeline("evaluate", trained, "--track", "a").stdout
    unknown = pipeline("evaluate", trained, "--track", "c")
    assert (unknown.returncode, unknown.stderr) == (2, f"{trained}: found no track 'c', expected one of a, b\n")
    lonely = pipeline("evaluate", trained, "--track", "a", "--set", "favourite=b")
    assert lonely.returncode == 2
    assert lonely.stderr == f"{trained}: with the track a alone: favourite: found b, expected one of a\n"


def test_rescoring_does_the_scores_and_the_report_again_and_nothing_else(trained, pipeline, tmp_path):
    store = tmp_path / "store"
    assert pipeline("evaluate", trained, "--track", "a").returncode == 0
    before = {stage: manifests(store, stage) for stage in ("number", "ask", "count", "add")}
    for folder in before["count"]:
        (folder / "number.txt").write_text("1234")  # a rescore that did nothing would leave it
    done = pipeline("evaluate", trained, "--track", "a", "--rescore")
    assert done.returncode == 0, done.stderr
    assert "server" not in done.stdout and len(starts(store)) == 1
    assert done.stdout.count("done  ") == 3 and "total 3.0" in done.stdout
    after = {stage: manifests(store, stage) for stage in before}
    assert (after["number"], after["ask"]) == (before["number"], before["ask"])
    assert after["count"].keys() == before["count"].keys()
    assert {(folder / "number.txt").read_text() for folder in after["count"]} == {"1"}


def test_rescoring_says_which_answers_are_missing(trained, pipeline, tmp_path):
    assert pipeline("run", trained, "--until", "a/first/count").returncode == 0
    kept = manifests(tmp_path / "store", "count")
    refused = pipeline("evaluate", trained, "--track", "a", "--rescore")
    assert refused.returncode == 2
    assert "--rescore: found nothing of a/second, expected stored answers" in refused.stderr
    assert f"first: python -m pipeline evaluate {trained} --track a --store" in refused.stderr
    assert manifests(tmp_path / "store", "count") == kept


def test_a_recipe_without_scores_cannot_be_rescored(recipe, pipeline):
    path = recipe("name: toy\ntracks: {a: {value: 1}}\n")
    refused = pipeline("evaluate", path, "--rescore")
    assert (refused.returncode, refused.stderr.startswith(f"{path}: found no benchmark")) == (2, True)


def test_a_dry_run_only_tells(trained, pipeline, tmp_path):
    told = pipeline("evaluate", trained, "--track", "a", "--dry-run")
    assert told.returncode == 0 and "would do 5 of 6 steps: a/first, a/second, a/first/count" in told.stdout
    assert not (tmp_path / "store" / "ask").exists()
