"""FastChat's judge (fastchat/llm_judge/common.py): the prompts it gets, and what is read from what it says.

FastChat's own module takes 15 s to import and asks through an OpenAI client of before 1.0, so that what is needed of it
is restated here; tests compare every judge conversation of the 80 questions, and every pattern, with FastChat's.
"""

import re
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.strict import StrictModel
from stages._serving.requests import Message, Request, Sampling
from stages.benchmarks import _mt_bench_data as data

Mode = Literal["single", "pairwise"]

RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
LOWEST, HIGHEST = 1.0, 10.0
VERDICTS = {"[[A]]": "A", "[[B]]": "B", "[[C]]": "tie"}
"""In the order in which FastChat looks for them."""
CATEGORIES_WITH_REFERENCE = ("math", "reasoning", "coding")
PROMPT_NAMES = {"single": ("single-v1", "single-math-v1"), "pairwise": ("pair-v2", "pair-math-v1")}
"""Without and with a reference answer; "-multi-turn" is appended for the second turn."""


class JudgePrompt(StrictModel):
    """A row of FastChat's judge_prompts.jsonl."""

    name: str
    type: str
    system_prompt: str
    prompt_template: str
    description: str = ""
    category: str
    output_format: str


class Asked(StrictModel):
    """How each question is put to the judge."""

    mode: Mode
    sampling: Sampling
    answer_start: str = ""


def load_prompts(file: data.File, mode: Mode) -> dict[str, JudgePrompt]:
    """By name; the four of the mode must be there. Raises UserError otherwise."""
    prompts = {prompt.name: prompt for prompt in (_prompt(place, row) for place, row in data.rows(file))}
    wanted = [name + turn for name in PROMPT_NAMES[mode] for turn in ("", "-multi-turn")]
    if missing := [name for name in wanted if name not in prompts]:
        raise UserError(
            f"{data.place_of(file)}: no judge prompt {', '.join(missing)}; expected FastChat's judge_prompts.jsonl"
        )
    return prompts


def rating_request(
    request: Request, texts: list[str], turn: int, prompts: dict[str, JudgePrompt], asked: Asked
) -> Request:
    """What the judge is asked about one turn (0 or 1) of a conversation. Its id is "<question>/<turn>".

    Raises UserError for a question that needs a reference answer and has none.
    """
    fields = {"answer": texts[0]} if turn == 0 else _numbered("answer", texts)
    return _judge_request(request, turn, fields, prompts, asked)


def pair_request(
    request: Request,
    texts: list[str],
    opponents: list[str],
    turn: int,
    model_is: Literal["A", "B"],
    prompts: dict[str, JudgePrompt],
    asked: Asked,
) -> Request:
    """What the judge is asked about one turn of two conversations, of which `model_is` says who is shown first.

    Its id is "<question>/<turn>/<model_is>". Raises UserError as `rating_request` does.
    """
    first, second = (texts, opponents) if model_is == "A" else (opponents, texts)
    if turn == 0:
        fields = {"answer_a": first[0], "answer_b": second[0]}
    else:
        fields = {**_numbered("answer_a", first), **_numbered("answer_b", second)}
    judged = _judge_request(request, turn, fields, prompts, asked)
    return judged.model_copy(update={"id": f"{judged.id}/{model_is}", "doc": {**judged.doc, "model_is": model_is}})


def parse_rating(text: str) -> float | None:
    """The first [[rating]], else the first [rating]; None if there is none between 1 and 10.

    FastChat's patterns; it keeps ratings off the scale, and drops -1 for those it cannot read without a word.
    """
    match = RATING.search(text) or RATING_BACKUP.search(text)
    rating = float(match.group(1)) if match else None
    return rating if rating is not None and LOWEST <= rating <= HIGHEST else None


def parse_verdict(text: str) -> str | None:
    """A, B or tie: the first of [[A]], [[B]], [[C]] that is anywhere in the text, in this order, as FastChat looks."""
    return next((verdict for mark, verdict in VERDICTS.items() if mark in text), None)


def _judge_request(
    request: Request, turn: int, answers: dict[str, str], prompts: dict[str, JudgePrompt], asked: Asked
) -> Request:
    plain, with_reference = PROMPT_NAMES[asked.mode]
    needs_reference = request.doc["category"] in CATEGORIES_WITH_REFERENCE
    name = (with_reference if needs_reference else plain) + ("-multi-turn" if turn else "")
    questions = {"question": request.turns[0]} if turn == 0 else _numbered("question", request.turns)
    references = _numbered("ref_answer", _reference(request)) if needs_reference else {}
    prompt = prompts[name]
    return Request(
        id=f"{request.id}/{turn}",
        history=(Message(role="system", content=prompt.system_prompt),),
        turns=(prompt.prompt_template.format(**questions, **answers, **references),),
        answer_start=asked.answer_start,
        sampling=asked.sampling,
        doc={"id": request.id, "turn": turn, "prompt": name},
    )


def _reference(request: Request) -> list[str]:
    reference = request.doc.get("reference")
    if not data.is_texts(reference) or len(reference) < len(request.turns):
        found = len(reference) if isinstance(reference, list) else "none"
        raise UserError(
            f"question {request.id}: its category {request.doc['category']} is judged against reference answers, found "
            f"{found}, expected a list of one a turn; give the question a `reference`, or name `ask.references`"
        )
    return reference


def _numbered(name: str, texts: list[str] | tuple[str, ...]) -> dict[str, str]:
    return {f"{name}_{number}": text for number, text in enumerate(texts, 1)}


def _prompt(place: str, row: dict[str, Any]) -> JudgePrompt:
    try:
        return JudgePrompt.model_validate(row)
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(
            f"{place}: {field}: {error.errors()[0]['msg']}; expected a row of judge_prompts.jsonl"
        ) from None
