"""Every generated problem must be solvable from its text, and no split may hold another's problems."""

import random
import re

import pytest

from pipeline.errors import UserError
from stages._data import generators
from stages._data.generators import arithmetic
from stages._data.generators._arithmetic_templates import TEMPLATES
from stages._data.generators.arithmetic import Options, Problem, check_disjoint, generate

STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@pytest.fixture(scope="module")
def splits():
    return generate(Options(), seed=3, num_train=3000, num_validation=200, num_test=300)


def all_rows(splits):
    return [row for rows in splits.values() for row in rows]


def test_sizes_and_fields(splits):
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 3000, "validation": 200, "test": 300}
    assert all(list(row) == ["question", "answer"] for row in all_rows(splits))


def test_every_step_is_right_and_the_last_is_the_answer(splits):
    for row in all_rows(splits):
        *steps, last = row["answer"].splitlines()
        for step in steps:
            [(left, operator, right, result)] = STEP.findall(step)
            product = int(right) * int(result)
            assert product == int(left) if operator == "/" else eval(f"{left} {operator} {right}") == int(result)
        assert last == f"#### {result}"


def test_steps_use_numbers_of_the_question_or_of_earlier_steps(splits):
    for row in all_rows(splits):
        known = {*re.findall(r"\d+", row["question"]), "2"}  # "twice", "half"
        for left, _, right, result in STEP.findall(row["answer"]):
            assert {left, right} <= known, row
            known.add(result)


def test_no_slot_choice_or_step_is_left_unfilled(splits):
    assert not [row for row in all_rows(splits) if re.search(r"[{}\[\]()|]", row["question"] + row["answer"])]


def test_all_templates_occur(splits):
    assert len(TEMPLATES) >= 40
    problems = arithmetic._draw_split(random.Random(0), Options(), 3000, set())
    assert {problem.identity[0] for problem in problems} == set(range(len(TEMPLATES)))


def test_questions_are_unique_over_all_splits(splits):
    questions = [row["question"] for row in all_rows(splits)]
    assert len(questions) == len(set(questions))


def test_same_seed_same_rows_and_more_training_data_keeps_the_test_split(splits):
    again = generate(Options(), seed=3, num_train=100, num_validation=200, num_test=300)
    assert again["test"] == splits["test"] and again["validation"] == splits["validation"]
    assert generate(Options(), seed=4, num_train=1, num_test=300)["test"] != splits["test"]


def test_one_story_with_the_same_numbers_in_two_splits_is_refused():
    first = Problem((0, (3, 4)), {"question": "Ada has 3 pears and gets 4.", "answer": "#### 7"})
    second = Problem((0, (3, 4)), {"question": "Tom has 3 plums and gets 4.", "answer": "#### 7"})
    with pytest.raises(UserError, match="in other words"):
        check_disjoint({"test": [first], "train": [second]})
    with pytest.raises(UserError, match="repeats a question"):
        check_disjoint({"test": [first, first]})


def test_generated_splits_share_no_story_with_the_same_numbers():
    rng, options = random.Random(1), Options(max_number=8, max_steps=1)
    test = arithmetic._draw_split(rng, options, 50, set())
    taken = {problem.identity for problem in test}
    train = arithmetic._draw_split(rng, options, 200, taken)
    assert not taken & {problem.identity for problem in train}


def test_options_limit_the_numbers_and_steps():
    options = Options(min_steps=2, max_steps=2, max_number=12, max_factor=4, max_result=30)
    for row in generate(options, seed=1, num_train=300)["train"]:
        assert len(STEP.findall(row["answer"])) == 2
        assert all(int(number) <= 12 for number in re.findall(r"\d+", row["question"]))
        assert all(int(result) <= 30 for *_, result in STEP.findall(row["answer"]))


def test_asking_for_more_than_there_is():
    with pytest.raises(UserError, match=r"too few problems.*raise max_number"):
        generate(Options(max_steps=1, max_number=5, max_factor=3, max_result=10), seed=1, num_train=10, num_test=3000)


def test_generators_are_found_by_name():
    assert generators.names() == ["arithmetic"]
    assert generators.load("arithmetic") is arithmetic
    with pytest.raises(ValueError, match="unknown generator 'algebra', known: arithmetic"):
        generators.load("algebra")
