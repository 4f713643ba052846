"""What of a row is shown to the model, and what it learns."""

import pytest

from stages._data.formats import Conversation, FieldProblem, Instruction

OPENAI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
CONVERSATION = Conversation(kind="conversation")


def test_both_layouts_of_a_conversation_are_the_same_example():
    example = CONVERSATION.example({"messages": OPENAI})
    assert example == CONVERSATION.example({"messages": SHAREGPT})
    assert example == ([{"role": "user", "content": "Hi"}], "Hello")


def test_earlier_turns_are_shown_and_a_trailing_question_is_left_out():
    more = [*OPENAI, {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me"}]
    assert CONVERSATION.example({"messages": [*more, {"role": "user", "content": "Why?"}]}) == (more[:3], "Me")


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (None, "'messages': found no such field"),
        ("Hi", "found str 'Hi'"),
        ([], "found no assistant turn after a user turn"),
        (OPENAI[1:], "found no assistant turn after a user turn"),
        ([*OPENAI, {"role": "robot", "content": "x"}], "'messages[2].role': found 'robot'"),
        ([{"role": "user", "content": 3}], "'messages[0]': found int 3"),
        ([{"role": "user", "content": " "}], "'messages[0]': found nothing"),
    ],
)
def test_what_is_no_conversation_is_named(turns, expected):
    with pytest.raises(FieldProblem) as caught:
        CONVERSATION.example({"messages": turns} if turns is not None else {})
    assert expected in str(caught.value)


def test_an_input_stands_below_its_instruction():
    row = {"instruction": "Add.", "input": "1 2", "output": "3"}
    assert Instruction(kind="instruction").example(row) == ([{"role": "user", "content": "Add.\n\n1 2"}], "3")
