"""FastChat's single-answer grading: the prompts a judge gets, and the ratings in what it says."""

import json
import re
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.strict import StrictModel
from stages._serving.requests import Message, Request, Sampling

DEMO_PROMPTS = Path(__file__).parent / "mt_bench_demo" / "judge_prompts.jsonl"

# As in fastchat.llm_judge.common, restated because importing it takes 15 s (a test compares the two).
RATING = re.compile(r"\[\[(\d+\.?\d*)\]\]")
RATING_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
CATEGORIES_WITH_REFERENCE = ("math", "reasoning", "coding")

LOWEST, HIGHEST = 1.0, 10.0


class JudgePrompt(StrictModel):
    """A row of FastChat's judge_prompts.jsonl."""

    name: str
    type: str
    system_prompt: str
    prompt_template: str
    description: str = ""
    category: str
    output_format: str


def load_prompts(path: Path | None) -> dict[str, JudgePrompt]:
    """By name; the four of single-answer grading must be there. Raises UserError otherwise."""
    path = path or DEMO_PROMPTS
    rows = [
        JudgePrompt.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    prompts = {row.name: row for row in rows}
    wanted = [f"single-{kind}v1{turn}" for kind in ("", "math-") for turn in ("", "-multi-turn")]
    if missing := [name for name in wanted if name not in prompts]:
        raise UserError(f"{path}: no judge prompt {', '.join(missing)}; expected FastChat's judge_prompts.jsonl")
    return prompts


def load_references(path: Path | None) -> dict[str, list[str]]:
    """Question id -> reference answers by turn, of a file in FastChat's form (reference_answer/*.jsonl)."""
    if path is None:
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {str(row["question_id"]): row["choices"][0]["turns"] for row in rows}


def judge_request(
    request: Request,
    texts: list[str],
    turn: int,
    prompts: dict[str, JudgePrompt],
    reference: list[str] | None,
    sampling: Sampling,
    answer_start: str = "",
) -> Request:
    """What the judge is asked about one turn (0 or 1) of a conversation. Its id is "<question>/<turn>"."""
    with_reference = request.doc["category"] in CATEGORIES_WITH_REFERENCE and reference is not None
    prompt = prompts[f"single-{'math-' if with_reference else ''}v1{'-multi-turn' if turn else ''}"]
    return Request(
        id=f"{request.id}/{turn}",
        history=(Message(role="system", content=prompt.system_prompt),),
        turns=(prompt.prompt_template.format(**_fields(request, texts, turn, reference if with_reference else None)),),
        answer_start=answer_start,
        sampling=sampling,
        doc={"id": request.id, "turn": turn, "prompt": prompt.name},
    )


def parse_rating(text: str) -> float | None:
    """The first [[rating]], else the first [rating]; None if there is none between 1 and 10."""
    match = RATING.search(text) or RATING_BACKUP.search(text)
    rating = float(match.group(1)) if match else None
    return rating if rating is not None and LOWEST <= rating <= HIGHEST else None


def _fields(request: Request, texts: list[str], turn: int, reference: list[str] | None) -> dict[str, Any]:
    references = {f"ref_answer_{number}": text for number, text in enumerate(reference or (), 1)}
    if turn == 0:
        return {"question": request.turns[0], "answer": texts[0], **references}
    questions = {f"question_{number}": text for number, text in enumerate(request.turns, 1)}
    return {**questions, **{f"answer_{number}": text for number, text in enumerate(texts, 1)}, **references}
