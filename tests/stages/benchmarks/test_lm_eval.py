"""Parity with lm-eval: what is asked and what it makes of the answers, sample by sample."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate

from pipeline.errors import UserError
from stages._serving.requests import Answer, Request
from stages.benchmarks import lm_eval
from stages.benchmarks._lm_eval import lm_evals_tasks
from stages.benchmarks._lm_eval_data import local_data
from stages.benchmarks._lm_eval_index import data_sets
from stages.benchmarks.base import Answered

ROWS = [
    {"question": "Ann has 3 pears and buys 4. How many?", "answer": "3 + 4 = 7\n#### 7"},
    {"question": "Ten boxes of 120 nails. How many nails?", "answer": "10 * 120 = 1200\n#### 1,200"},
    {"question": "Half of 5?", "answer": "#### 2.5"},
    {"question": "2 - 5?", "answer": "#### -3"},
    {"question": "1 + 1?", "answer": "#### 2"},
]
TEXTS = ["3 + 4 = 7\n#### 7", "That makes $1,200 in all.", "#### 2.5", "It is -3", "no number"]
CHOICES = {"text": ["one", "two apples", "three", "four pears left"], "label": ["A", "B", "C", "D"]}
ARC_ROWS = [
    {"question": f"What is {number}?", "choices": CHOICES, "answerKey": "ABCD"[number % 4]} for number in range(6)
]
MATH_ROWS = [
    {"problem": f"{number} + 1?", "solution": f"It is $\\boxed{{{number + 1}}}$.", "type": kind, "level": "Level 1"}
    for number in range(3)
    for kind in (
        "Algebra", "Counting & Probability", "Geometry", "Intermediate Algebra", "Number Theory", "Prealgebra",
        "Precalculus",
    )
]  # fmt: skip
WIKI_ROWS = [{"page": "one apple . two pears ."}, {"page": "a pear is left , the others are sold ."}]
ARITHMETIC = lm_eval.Config(name="lm_eval", task="arithmetic_word_problems")
SCORER = lm_eval.Scorer(name="lm_eval")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A prepared data set, as the pipeline seals it."""
    folder = _write(tmp_path / "data", train=ROWS, test=ROWS)
    (folder / "manifest.json").write_text('{"stage": "prepare_data", "files": {}}')
    return folder


def _write(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _answered(
    requests: list[Request], said: Callable[[Request], Any], data_dir: Path | None = None, files_dir: Path | None = None
) -> Answered:
    answers = {(each.id, 0, 0): _answer(each, said(each)) for each in requests}
    return Answered(requests=requests, answers=answers, data_dir=data_dir, files_dir=files_dir)


def _answer(request: Request, said: Any) -> Answer:
    likelihood = said if request.continuation is not None else None
    return Answer(
        id=request.id, sample=0, turn=0, text="" if likelihood is not None else said, finish_reason="stop",
        num_prompt_tokens=1, num_tokens=1, loglikelihood=likelihood,
        is_greedy=None if likelihood is None else likelihood > -2, prompt_sha256="",
    )  # fmt: skip


def _in_turn(texts: list[str]) -> Callable[[Request], str]:
    remaining: Iterator[str] = iter(texts)
    return lambda request: next(remaining)


def test_questions_are_without_what_the_prompt_says_around_them(data_dir: Path, tmp_path: Path):
    assert lm_eval.questions(ARITHMETIC, data_dir, tmp_path) == [
        (f"arithmetic_word_problems/{number}", row["question"]) for number, row in enumerate(ROWS)
    ]
    gsm8k = lm_eval.Config(name="lm_eval", task="gsm8k", data={"openai/gsm8k": _write(tmp_path / "gsm8k", test=ROWS)})
    assert [text for _, text in lm_eval.questions(gsm8k, None, tmp_path)] == [row["question"] for row in ROWS]
    pages = _write(tmp_path / "wiki", test=WIKI_ROWS)  # a task whose documents have no prompt
    wiki = lm_eval.Config(name="lm_eval", task="wikitext", data={"EleutherAI/wikitext_document_level": pages})
    assert [text for _, text in lm_eval.questions(wiki, None, tmp_path)] == [row["page"] for row in WIKI_ROWS]


def _likelihood(*texts: str) -> float:
    """Made up, but the same for equal texts whoever asks, and never twice the same for others."""
    return -(sum((position + 1) * ord(letter) for position, letter in enumerate("|".join(texts))) % 977) / 100


class Model(LM):
    """lm-eval's side of the comparison: says what the stored answers say, and notes what it was asked."""

    def __init__(self, texts: list[str] | None = None) -> None:
        super().__init__()
        self.texts = texts or []
        self.asked: list[Any] = []

    def generate_until(self, requests: list[Any]) -> list[str]:
        self.asked += [each.args[0] for each in requests]
        return self.texts[: len(requests)]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        self.asked += [each.args for each in requests]
        return [(found := _likelihood(*each.args), found > -2) for each in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        self.asked += [each.args for each in requests]
        return [_likelihood(*each.args) for each in requests]


def _said(request: Request) -> float:
    texts = (request.continuation or "",) if request.rolling else (request.turns[0], request.continuation or "")
    return _likelihood(*texts)


def _compare(config: lm_eval.Config, answered: Answered, theirs: dict[str, Any], cache_dir: Path) -> None:
    """Every number of every task and group, and of every sample."""
    scores, items = lm_eval.score(SCORER, config, answered, cache_dir)
    by_id = {item["id"]: item for item in items}
    num_numbers = 0
    for name, row in theirs["results"].items():
        prefix = "" if name == config.task else f"{name}/"
        for key in (key for key in row if "," in key and "_stderr," not in key):
            metric = scores.metrics[prefix + key]
            assert metric.value == row[key]
            expected = row[key.replace(",", "_stderr,", 1)]
            assert metric.stderr == (None if expected == "N/A" else expected)
            num_numbers += 1
    assert num_numbers > 0
    num_samples = 0
    for name, samples in theirs["samples"].items():
        for sample in samples:
            item = by_id[f"{name}/{sample['doc_id']}"]
            assert (item["doc_hash"], item["prompt_hash"]) == (sample["doc_hash"], sample["prompt_hash"])
            for metric in sample["metrics"]:
                if isinstance(sample[metric], int | float):
                    assert item[f"{metric},{sample['filter']}"] == sample[metric]
            num_samples += 1
    assert num_samples >= len(items) > 0


def _theirs(config: lm_eval.Config, model: Model, cache_dir: Path, **arguments: Any) -> dict[str, Any]:
    with local_data(config.data, None, cache_dir):
        results: Any = simple_evaluate(
            model, tasks=[config.task], task_manager=lm_evals_tasks(), bootstrap_iters=1000, **arguments
        )
    return results


def test_the_shipped_task_asks_the_bare_questions(data_dir: Path, tmp_path: Path):
    requests = lm_eval.requests(ARITHMETIC, data_dir, tmp_path)
    assert [each.turns for each in requests] == [(row["question"],) for row in ROWS]
    assert requests[0].sampling.model_dump() == {
        "max_tokens": 256, "temperature": 0.0, "top_p": 1.0, "stop": (), "seed": 1234
    }  # fmt: skip


def test_the_shipped_task_scores_both_ways(data_dir: Path, tmp_path: Path):
    requests = lm_eval.requests(ARITHMETIC, data_dir, tmp_path)
    answered = _answered(requests, _in_turn(TEXTS), data_dir, tmp_path)
    scores, items = lm_eval.score(SCORER, ARITHMETIC, answered, tmp_path)
    assert [item["score"] for item in items] == [1, 1, 1, 1, 0]
    assert [item["exact_match,strict-match"] for item in items] == [1, 0, 1, 0, 0]
    assert scores.primary == "exact_match,flexible-extract"
    assert scores.metrics["exact_match,flexible-extract"].value == 0.8
    assert scores.metrics["exact_match,strict-match"].stderr == pytest.approx(0.2449, abs=1e-4)
    assert scores.counts["unparsable"] == 1
    details = scores.details["tasks"]["arithmetic_word_problems"]
    assert (details["version"], details["n"], len(details["hash"])) == (1.0, 5, 64)
    kept = [json.loads(line) for line in (tmp_path / "lm_eval/samples_arithmetic_word_problems.jsonl").open()]
    assert [row["doc"]["question"] for row in kept[:5]] == [row["question"] for row in ROWS]


def test_a_generation_task_scores_as_lm_evals_own_run(data_dir: Path, tmp_path: Path):
    """gsm8k, two-shot with plain prompts."""
    config = lm_eval.Config(
        name="lm_eval", task="gsm8k", num_fewshot=2, use_template=False, data={"openai/gsm8k": data_dir}
    )
    requests = lm_eval.requests(config, None, tmp_path)
    model = Model(TEXTS)
    theirs = _theirs(config, model, tmp_path, num_fewshot=2)
    assert [each.turns[0] for each in requests] == model.asked
    _compare(config, _answered(requests, _in_turn(TEXTS)), theirs, tmp_path)


@pytest.mark.parametrize("num_fewshot", [0, 3])
def test_multiple_choice_scores_as_lm_evals_own_run(num_fewshot: int, tmp_path: Path):
    """ARC: acc and acc_norm from the log-likelihoods of the choices."""
    folder = _write(tmp_path / "arc" / "ARC-Challenge", train=ARC_ROWS, validation=ARC_ROWS, test=ARC_ROWS).parent
    config = lm_eval.Config(
        name="lm_eval", task="arc_challenge", num_fewshot=num_fewshot, use_template=False,
        data={"allenai/ai2_arc": folder},
    )  # fmt: skip
    requests = lm_eval.requests(config, None, tmp_path)
    model = Model()
    theirs = _theirs(config, model, tmp_path, num_fewshot=num_fewshot)
    assert [(each.turns[0], each.continuation) for each in requests] == model.asked
    _compare(config, _answered(requests, _said), theirs, tmp_path)


def test_whole_documents_score_as_lm_evals_own_run(tmp_path: Path):
    """Wikitext: perplexities from rolling log-likelihoods."""
    folder = _write(tmp_path / "wiki", train=WIKI_ROWS, validation=WIKI_ROWS, test=WIKI_ROWS)
    data = {"EleutherAI/wikitext_document_level": folder}
    config = lm_eval.Config(name="lm_eval", task="wikitext", use_template=False, data=data)
    requests = lm_eval.requests(config, None, tmp_path)
    assert all(each.rolling for each in requests)
    model = Model()
    theirs = _theirs(config, model, tmp_path)
    assert [(each.continuation,) for each in requests] == model.asked
    _compare(config, _answered(requests, _said), theirs, tmp_path)


def test_a_group_scores_as_lm_evals_own_run(tmp_path: Path):
    """MATH's seven subjects, from one file, and the metric of the group."""
    data = {"EleutherAI/hendrycks_math": _write(tmp_path / "math", test=MATH_ROWS)}
    config = lm_eval.Config(name="lm_eval", task="hendrycks_math", limit=2, use_template=False, data=data)
    requests = lm_eval.requests(config, None, tmp_path)
    texts = ["$1$", "two"] * 7
    theirs = _theirs(config, Model(texts), tmp_path, limit=2)
    answered = _answered(requests, _in_turn(texts))
    _compare(config, answered, theirs, tmp_path)
    scores, _ = lm_eval.score(SCORER, config, answered, tmp_path)
    assert (scores.primary, scores.metrics["exact_match,none"].n) == ("exact_match,none", 14)
    assert scores.metrics["exact_match,none"].value == 0.5
    assert scores.metrics["hendrycks_math_geometry/exact_match,none"].n == 2


def test_a_tag_has_the_mean_of_its_tasks(tmp_path: Path):
    for subset in ("ARC-Easy", "ARC-Challenge"):
        _write(tmp_path / "arc" / subset, train=ARC_ROWS, validation=ARC_ROWS, test=ARC_ROWS)
    data = {"allenai/ai2_arc": tmp_path / "arc"}
    config = lm_eval.Config(name="lm_eval", task="ai2_arc", use_template=False, data=data)
    answered = _answered(lm_eval.requests(config, None, tmp_path), _said)
    scores, items = lm_eval.score(SCORER.model_copy(update={"primary": "acc_norm,none"}), config, answered, tmp_path)
    parts = [scores.metrics[f"{task}/acc_norm,none"].value for task in ("arc_easy", "arc_challenge")]
    assert scores.primary == "mean_of_tasks"
    assert scores.metrics["mean_of_tasks"].value == pytest.approx(sum(part or 0 for part in parts) / 2)
    assert len({item["id"] for item in items}) == len(items) == 12


def test_worked_examples_become_earlier_messages(data_dir: Path, tmp_path: Path):
    config = lm_eval.Config(name="lm_eval", task="gsm8k", num_fewshot=2, limit=1, data={"openai/gsm8k": data_dir})
    (request,) = lm_eval.requests(config, None, tmp_path)
    assert [message.role for message in request.history] == ["user", "assistant"] * 2
    assert request.turns[0].startswith("Question: Ann has 3 pears")
    assert "Question:" in request.sampling.stop


def test_generation_arguments_of_the_recipe_replace_the_tasks(data_dir: Path, tmp_path: Path):
    generation = lm_eval.Generation(temperature=0.7, stop=("###",))
    config = ARITHMETIC.model_copy(update={"generation": generation, "max_tokens": 9})
    sampling = lm_eval.requests(config, data_dir, tmp_path)[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.stop, sampling.max_tokens) == (0.7, 1.0, ("###",), 9)


def test_an_unknown_task_names_near_ones(tmp_path: Path):
    with pytest.raises(UserError, match="no task, group or tag 'gsm8kk'; near names: gsm8k"):
        lm_eval.requests(lm_eval.Config(name="lm_eval", task="gsm8kk"), None, tmp_path)


def test_a_task_that_runs_code_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="without a sandbox; expected `name: humaneval`"):
        lm_eval.requests(lm_eval.Config(name="lm_eval", task="humaneval"), None, tmp_path)


def test_worked_examples_for_a_task_without_are_refused(data_dir: Path, tmp_path: Path):
    config = ARITHMETIC.model_copy(update={"num_fewshot": 3})
    with pytest.raises(UserError, match="num_fewshot: found 3, but arithmetic_word_problems fixes it at 0"):
        lm_eval.requests(config, data_dir, tmp_path)


def test_missing_data_says_so(tmp_path: Path):
    with pytest.raises(UserError, match=r"found no data, expected test\.jsonl"):
        lm_eval.requests(ARITHMETIC, tmp_path, tmp_path / "cache")
    _write(tmp_path, train=ROWS)
    with pytest.raises(UserError, match=r"no data for the task, expected test\.jsonl"):
        lm_eval.requests(ARITHMETIC, tmp_path, tmp_path / "cache")


def test_missing_worked_examples_say_so(tmp_path: Path):
    data = {"openai/gsm8k": _write(tmp_path / "gsm8k", test=ROWS)}
    config = lm_eval.Config(name="lm_eval", task="gsm8k", data=data)
    with pytest.raises(UserError, match=r"no data for the task, expected train\.jsonl"):
        lm_eval.requests(config, None, tmp_path / "cache")
    assert len(lm_eval.requests(config.model_copy(update={"num_fewshot": 0}), None, tmp_path / "cache")) == 5


def test_one_file_is_never_two_subsets(tmp_path: Path):
    data = {"allenai/ai2_arc": _write(tmp_path / "arc", train=ARC_ROWS, validation=ARC_ROWS, test=ARC_ROWS)}
    config = lm_eval.Config(name="lm_eval", task="ai2_arc", data=data)
    with pytest.raises(UserError, match=r"found one data set for the subsets ARC-.* expected a folder for each"):
        lm_eval.requests(config, None, tmp_path / "cache")


def test_an_unknown_primary_metric_lists_the_known(data_dir: Path, tmp_path: Path):
    requests = lm_eval.requests(ARITHMETIC, data_dir, tmp_path)
    scorer = lm_eval.Scorer(name="lm_eval", primary="accuracy")
    with pytest.raises(UserError, match="expected one of exact_match,flexible-extract, exact_match,strict-match"):
        lm_eval.score(scorer, ARITHMETIC, _answered(requests, _in_turn(TEXTS), data_dir), tmp_path)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("gsm8k", {"openai/gsm8k"}),
        ("mmlu", {"cais/mmlu"}),
        ("arc_challenge", {"allenai/ai2_arc"}),
        ("cola", {"nyu-mll/glue"}),
        ("arithmetic_word_problems", set()),
    ],
)
def test_data_sets_are_known_without_lm_eval(task: str, expected: set[str]):
    assert {each.name for each in data_sets(task)} == expected


def test_a_group_of_groups_knows_its_data_sets():
    assert {"allenai/ai2_arc", "Rowan/hellaswag", "cais/mmlu", "openai/gsm8k"} <= {
        each.name for each in data_sets("openllm")
    }


def test_a_mirror_stands_for_the_hub(tmp_path: Path):
    _write(tmp_path / "gsm8k", test=ROWS, train=ROWS)
    _write(tmp_path / "nyu-mll/glue/cola", validation=[])
    gsm8k = lm_eval.Config(name="lm_eval", task="gsm8k")
    assert lm_eval.on_mirror(gsm8k, tmp_path).data == {"openai/gsm8k": tmp_path / "gsm8k"}
    cola = lm_eval.on_mirror(lm_eval.Config(name="lm_eval", task="cola"), tmp_path)
    assert cola.data == {"nyu-mll/glue": tmp_path / "nyu-mll/glue"}
    named = gsm8k.model_copy(update={"data": {"openai/gsm8k": tmp_path / "mine"}})
    assert lm_eval.on_mirror(named, tmp_path) == named
    assert lm_eval.on_mirror(ARITHMETIC, tmp_path) == ARITHMETIC


def test_a_missing_local_copy_is_found_before_any_work(tmp_path: Path):
    config = lm_eval.Config(name="lm_eval", task="gsm8k", data={"openai/gsm8k": tmp_path / "nothing"})
    assert lm_eval.problems(config) == [
        f"lm_eval: gsm8k: data.openai/gsm8k: found nothing at {tmp_path / 'nothing'}, expected a folder"
    ]
