"""Metrics and counts that all benchmarks share."""

import pytest

from stages._serving.requests import Answer
from stages._statistics import bootstrap_interval, wilson_interval
from stages.benchmarks.base import answer_counts, mean_metric, metric_of


def test_one_answer_a_problem_right_or_wrong():
    found = mean_metric([1.0, 1.0, 1.0, 0.0])
    wilson = wilson_interval(3, 4)
    assert (found.value, found.n) == (0.75, 4)
    assert found.stderr == pytest.approx(0.25)
    assert (found.low, found.high, found.interval) == (wilson.low, wilson.high, "Wilson")


def test_graded_answers():
    # s^2 = (4 + 1 + 1 + 4) / 4 = 2.5; t(0.975, 4 degrees of freedom) = 2.776
    found = mean_metric([1.0, 2.0, 4.0, 5.0, 3.0])
    assert found.stderr == pytest.approx((2.5 / 5) ** 0.5)
    assert (found.low, found.high) == pytest.approx((3 - 2.776445 * 0.5**0.5, 3 + 2.776445 * 0.5**0.5))
    assert found.interval == "Student t"


def test_samples_of_one_problem_are_no_independent_problems():
    samples = [[1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    found = mean_metric(samples)
    rates = [1, 0.25, 0]
    # mean 5/12; deviations 7/12, -2/12, -5/12: s^2 = (49 + 4 + 25) / 144 / 2
    assert found.value == pytest.approx(5 / 12)
    assert found.stderr == pytest.approx((78 / 288 / 3) ** 0.5)
    assert found.n == 3
    expected = bootstrap_interval(rates)
    assert expected
    assert (found.low, found.high, found.interval) == (expected.low, expected.high, "bootstrap by problem")


def test_a_problem_with_more_samples_does_not_count_more():
    assert mean_metric([[1, 1, 1], [0]]).value == 0.5


def test_samples_that_all_fail_leave_an_interval_with_width():
    found = mean_metric([[0, 0]] * 10)
    assert found.interval == "Wilson"
    assert (found.low, found.high) == pytest.approx((0, 0.2775), abs=1e-4)


def test_few_problems():
    assert mean_metric([]).value is None
    assert mean_metric([2.5]).model_dump() == {
        "value": 2.5, "stderr": None, "n": 1, "low": None, "high": None, "interval": "",
    }  # fmt: skip


def test_a_number_with_only_a_standard_error():
    found = metric_of(0.4, 0.1, 50)
    assert (found.low, found.high) == pytest.approx((0.204, 0.596), abs=1e-3)
    assert found.interval == "normal"
    assert metric_of(0.4, None, 50).interval == ""


def test_a_number_that_is_the_mean_of_its_items():
    assert metric_of(0.75, 0.2, 4, [1, 1, 1, 0]).interval == "Wilson"
    assert metric_of(0.75, 0.2, 4, [1, 1, 1, 0]).stderr == 0.2
    assert metric_of(0.5, 0.2, 4, [1, 1, 1, 0]).interval == "normal"
    assert metric_of(0.75, 0.2, 8, [1, 1, 1, 0]).interval == "normal"


def _answer(finish_reason: str, text: str = "", loglikelihood: float | None = None) -> Answer:
    return Answer(
        id="1", sample=0, turn=0, text=text, finish_reason=finish_reason, num_prompt_tokens=1, num_tokens=1,
        loglikelihood=loglikelihood, prompt_sha256="",
    )  # fmt: skip


def test_what_went_wrong_is_counted_once_each():
    answers = [
        _answer("stop", "fine"),
        _answer("stop", " \n"),
        _answer("length", "cut"),
        _answer("prompt_too_long"),
        _answer("content_filter"),
        _answer("refusal", "I cannot"),
        _answer("scored", loglikelihood=-1.0),
        _answer("prompt_cut", loglikelihood=-1.0),
    ]
    assert answer_counts(answers) == {
        "truncated": 1, "empty": 1, "prompt_too_long": 1, "prompt_cut": 1, "refused": 2,
    }  # fmt: skip
