"""MT-Bench's files: questions, GPT-4's reference answers, the judge's prompts. FastChat's by name, or a user's own."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BeforeValidator, Field

from pipeline.downloads import Download
from pipeline.errors import UserError
from pipeline.strict import LocalPath
from stages._data import pinned
from stages._data.pinned import Pinned

File = Pinned | Path

# The last commit of FastChat's main branch when this was written. The three hashes are of the files that the tests read
# from a mirror folder; several public projects record the same three for this commit. The addresses themselves have not
# been fetched from by the authors: if GitHub ever answers with other content, that is refused, not used.
COMMIT = "587d5cfa1609a43d192cedb8441cac3c17db105d"
_FOLDER = f"https://raw.githubusercontent.com/lm-sys/FastChat/{COMMIT}/fastchat/llm_judge/data"
QUESTIONS = Pinned(
    f"{_FOLDER}/mt_bench/question.jsonl", "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7"
)
REFERENCES = Pinned(
    f"{_FOLDER}/mt_bench/reference_answer/gpt-4.jsonl",
    "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
)
PROMPTS = Pinned(f"{_FOLDER}/judge_prompts.jsonl", "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6")

_DEMO = Path(__file__).parent / "mt_bench_demo"
DEMO_QUESTIONS = _DEMO / "questions.jsonl"
DEMO_PROMPTS = _DEMO / "judge_prompts.jsonl"


def _name_or_file(value: Any) -> Any:
    """One message for both halves of the union: every text is a name or a path."""
    if not isinstance(value, str | Path):
        raise ValueError(f"found {value!r}, expected a name or a file")
    return value


QuestionSet = Annotated[
    Literal["mt_bench", "demo"] | LocalPath, Field(union_mode="left_to_right"), BeforeValidator(_name_or_file)
]
"""MT-Bench's 80 questions, the eight shipped here, or a file in the form of question.jsonl."""
PromptSet = Annotated[
    Literal["fastchat", "demo"] | LocalPath, Field(union_mode="left_to_right"), BeforeValidator(_name_or_file)
]
"""FastChat's prompts of a judge, the short ones shipped here, or a file in the form of judge_prompts.jsonl."""


def question_file(questions: str | Path) -> File:
    """Where the questions of a `QuestionSet` are."""
    named: dict[str, File] = {"mt_bench": QUESTIONS, "demo": DEMO_QUESTIONS}
    return named.get(str(questions), Path(questions))


def prompt_file(prompts: str | Path) -> File:
    """Where the prompts of a `PromptSet` are."""
    named: dict[str, File] = {"fastchat": PROMPTS, "demo": DEMO_PROMPTS}
    return named.get(str(prompts), Path(prompts))


def problem(file: File, names: str) -> str | None:
    """Why a file cannot be had here and now, in one line, or None. `names`: what else its field may say."""
    if isinstance(file, Pinned):
        return pinned.problem(file)
    return None if file.is_file() else f"{file} does not exist, expected {names} or a file"


def downloads(file: File) -> list[Download]:
    """What has to be fetched for it."""
    return [file.download()] if isinstance(file, Pinned) else []


def content(file: File) -> bytes:
    """Raises UserError for a file that cannot be had."""
    if isinstance(file, Pinned):
        return pinned.read(file)
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}, expected a file of JSON lines") from None


def rows(file: File) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with its place ("file:line"). Raises UserError for other lines."""
    where = place_of(file)
    lines = content(file).decode().splitlines()
    return [(f"{where}:{number}", _parsed(f"{where}:{number}", line)) for number, line in enumerate(lines, 1) if line]


def place_of(file: File) -> str:
    """Its address or path, for messages."""
    return file.url if isinstance(file, Pinned) else str(file)


def references(file: File) -> dict[str, list[str]]:
    """Question id -> reference answers by turn, of a file in FastChat's form. Raises UserError for another form."""
    return {str(row.get("question_id")): _reference(place, row) for place, row in rows(file)}


def _parsed(place: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: no JSON ({error}), expected one object a line") from None
    if not isinstance(row, dict):
        raise UserError(f"{place}: found {type(row).__name__}, expected an object")
    return row


def _reference(place: str, row: dict[str, Any]) -> list[str]:
    try:
        turns = row["choices"][0]["turns"]
    except (KeyError, IndexError, TypeError):
        turns = None
    if "question_id" not in row or not is_texts(turns):
        raise UserError(f'{place}: expected {{"question_id", "choices": [{{"turns": [texts]}}]}} as FastChat writes it')
    return list(turns)


def is_texts(value: Any) -> TypeGuard[list[str]]:
    """Whether it is a list of texts with at least one."""
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
