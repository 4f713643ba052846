"""Scoring needs whole answers of the benchmark it is for."""

import json
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.stage import Resources, Workspace
from stages import score
from stages.benchmarks import humaneval, mt_bench
from tests.stages.conftest import artifact


@pytest.fixture
def unanswered(tmp_path: Path) -> Path:
    """One request of MT-Bench without its answers."""
    folder = tmp_path / "answers"
    folder.mkdir()
    request = mt_bench.requests(mt_bench.Config(name="mt_bench", questions="demo", limit=1), None, tmp_path)[0]
    (folder / "requests.jsonl").write_text(request.model_dump_json() + "\n")
    (folder / "answers.jsonl").write_text("")
    (folder / "generation.json").write_text(json.dumps({"benchmark": {"name": "mt_bench", "questions": "demo"}}))
    return folder


def test_incomplete_answers_are_refused(unanswered: Path, workspace: Workspace):
    config = score.Config(scorer=mt_bench.Scorer(name="mt_bench"))
    with pytest.raises(UserError, match="2 answers are missing"):
        score.run(config, score.Inputs(answers=artifact(unanswered, "generate")), workspace, Resources())


def test_another_benchmarks_scorer_is_refused(unanswered: Path, workspace: Workspace):
    config = score.Config(scorer=humaneval.Scorer(name="humaneval"))
    with pytest.raises(UserError, match="got humaneval, expected mt_bench"):
        score.run(config, score.Inputs(answers=artifact(unanswered, "generate")), workspace, Resources())
