"""What a model is given, token by token: one beginning, nothing cut in silence, divided as lm-eval divides it."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from stages._data.binding import bind
from stages._data.prompts import Chat, Jinja
from stages._data.tokenizer import load
from stages._serving.prompts import ChatPrompter, TextPrompter, TokenPrompter
from stages._serving.requests import Message, Request, Sampling
from tests.stages.test_tokenize import CHATML, write_byte_tokenizer

CHAT = Chat(kind="chat")
SAMPLING = Sampling(max_tokens=4)
BARE = "{% for message in messages %}{{ message.content }}{% endfor %}"
PAIRS = [("one apple", " two"), ("one apple ", "two"), ("", "two"), ("a\n", " b c"), ("é", "ü"), ("x  ", " y")]


def _prompter(folder: Path, adds_bos: bool, prompt: Chat | Jinja = CHAT, **arguments: Any) -> TokenPrompter:
    write_byte_tokenizer(folder, adds_bos=adds_bos, **arguments)
    return TokenPrompter(bind(prompt, load(folder)), load(folder))


def _request(turn: str, **fields: Any) -> Request:
    return Request(id="1", turns=(turn,), sampling=SAMPLING, **fields)


def _prompts(prompter: Any, request: Request, max_model_len: int | None = None) -> list[Any]:
    return prompter.prompts(request, [Message(role="user", content=request.turns[0])], max_model_len)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_a_prompt_begins_once(adds_bos: bool, raw: bool, tmp_path: Path):
    prompter = _prompter(tmp_path, adds_bos)
    (prompt,) = _prompts(prompter, _request("hello", raw=raw))
    bos = load(tmp_path).bos_token_id
    assert prompt.token_ids.count(bos) == int(adds_bos)
    assert (prompt.token_ids[0] == bos) == adds_bos


def test_a_template_that_writes_bos_gets_no_second(tmp_path: Path):
    prompter = _prompter(tmp_path, adds_bos=True, chat_template="{{ bos_token }}" + CHATML)
    (prompt,) = _prompts(prompter, _request("hello"))
    assert prompt.token_ids.count(load(tmp_path).bos_token_id) == 1


@pytest.mark.parametrize("raw", [False, True])
def test_two_beginnings_are_refused(raw: bool, tmp_path: Path):
    prompter = _prompter(tmp_path, adds_bos=True, prompt=Jinja(kind="jinja", text=BARE))
    request = _request("<s><s>hello", raw=True) if raw else _request("<s>hello")
    with pytest.raises(UserError, match="begins with '<s>' twice"):
        _prompts(prompter, request)


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize(("context", "continuation"), PAIRS)
def test_pairs_are_divided_as_lm_eval_divides_them(context: str, continuation: str, adds_bos: bool, tmp_path: Path):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    prompter = _prompter(tmp_path, adds_bos)
    (prompt,) = _prompts(prompter, _request(context, raw=True, continuation=continuation))
    theirs: Any = HFLM.__new__(HFLM)
    theirs.tokenizer, theirs.backend = AutoTokenizer.from_pretrained(tmp_path), "causal"
    theirs.add_bos_token, theirs.custom_prefix_token_id = None, None
    theirs.softmax_dtype = None
    if context:
        expected_context, expected = theirs._encode_pair(context, continuation)
    else:
        whole = theirs.tok_encode(continuation, add_special_tokens=False)
        expected_context, expected = [theirs.prefix_token_id], whole
    assert list(prompt.token_ids) == [*expected_context, *expected]
    assert prompt.num_scored == len(expected)


def test_a_prompt_that_lost_its_beginning_says_so(tmp_path: Path):
    prompter = _prompter(tmp_path, adds_bos=False)
    request = _request("abcdefgh", raw=True, continuation="ij")
    (whole,) = _prompts(prompter, request, 11)
    (cut,) = _prompts(prompter, request, 10)
    assert (whole.was_cut, cut.was_cut) == (False, True)
    assert cut.token_ids == whole.token_ids[1:]
    assert cut.num_scored == 2


def test_a_chat_endpoint_is_asked_nothing_it_cannot_answer(tmp_path: Path):
    for request in (_request("a", raw=True), _request("a", continuation="b"), _request("a", answer_start="Well")):
        with pytest.raises(UserError, match=r"endpoint\.api: found chat"):
            _prompts(ChatPrompter(), request)
    (prompt,) = _prompts(ChatPrompter(), _request("a"))
    assert prompt.messages == (Message(role="user", content="a"),)


def test_a_completions_endpoint_is_sent_plain_text(tmp_path: Path):
    with pytest.raises(UserError, match=r"endpoint\.api: found completions"):
        _prompts(TextPrompter(), _request("a"))
    (prompt,) = _prompts(TextPrompter(), _request("a", raw=True, continuation="b"))
    assert (prompt.text, prompt.scored) == ("a", "b")
