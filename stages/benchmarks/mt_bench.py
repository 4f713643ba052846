"""MT-Bench (Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench"): 80 two-turn questions, rated by a judge.

The protocol is FastChat's (lm-sys/FastChat, fastchat/llm_judge): a temperature for each category, each turn judged with
its own prompt, mathematics, reasoning and coding against GPT-4's reference answers. The judge is a stage of its own.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.downloads import Download
from pipeline.errors import UserError
from pipeline.strict import LocalPath, StrictModel
from stages._serving.requests import Request, Sampling
from stages.benchmarks import _mt_bench_data as data
from stages.benchmarks import _mt_bench_pairs as pairs
from stages.benchmarks import _mt_bench_ratings as ratings
from stages.benchmarks._mt_bench_data import QuestionSet
from stages.benchmarks.base import Answered, Item, Scores, answer_counts

NUM_QUESTIONS = 80

# FastChat's own table, restated because importing fastchat takes 15 s (a test compares the two).
TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
OTHER_TEMPERATURE = 0.7  # FastChat's for a category it does not know
PROBLEM_FIELDS = ("questions",)


class Config(StrictModel):
    """What is asked."""

    VERSION: ClassVar[int] = 2  # the questions are MT-Bench's own by default

    name: Literal["mt_bench"]
    questions: QuestionSet = "mt_bench"
    """`mt_bench`, `demo` (eight questions shipped here, to show the path offline), or a file of JSON lines
    {"question_id", "category", "turns" (one or two), "reference" (optional)}."""
    references: LocalPath | None = None
    """JSON lines as FastChat's reference_answer/gpt-4.jsonl, for the judge. By default that file for MT-Bench's own
    questions; a question that is not in it has its own "reference"."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first so many questions."""
    max_tokens: Annotated[int, Field(ge=1)] = 1024
    """Of each turn; 1024 is FastChat's."""
    seed: int = 0


class Scorer(StrictModel):
    """Options of scoring: none beyond the protocol's."""

    VERSION: ClassVar[int] = 2  # metrics of each category and turn, win rates

    name: Literal["mt_bench"]


def on_mirror(config: Config, mirror: Path) -> Config:
    """The config with MT-Bench's files of a mirror folder, where it has them and the recipe names none."""
    questions = mirror / "mt_bench" / "question.jsonl"
    references = mirror / "mt_bench" / "reference_answer" / "gpt-4.jsonl"
    if config.questions != "mt_bench" or not questions.is_file():
        return config
    if config.references is not None:
        return config.model_copy(update={"questions": questions})
    if not references.is_file():
        return config  # MT-Bench's questions without its references would be judged by other rules
    return config.model_copy(update={"questions": questions, "references": references})


def problems(config: Config) -> list[str]:
    """Whether questions and reference answers are here or can be fetched."""
    wanted = [("questions", data.question_file(config.questions), "mt_bench, demo")]
    if references := _reference_file(config):
        wanted.append(("references", references, "nothing"))
    found = [(field, data.problem(file, names)) for field, file, names in wanted]
    return [f"mt_bench: {field}: {line}" for field, line in found if line]


def downloads(config: Config) -> list[Download]:
    """Questions and reference answers."""
    references = _reference_file(config)
    return data.downloads(data.question_file(config.questions)) + (data.downloads(references) if references else [])


def requests(config: Config, data_dir: Path | None, cache_dir: Path) -> list[Request]:
    """One conversation a question. Raises UserError for a row that is no question."""
    rows = data.rows(data.question_file(config.questions))
    _refuse_malformed(rows)
    file = _reference_file(config)
    references = data.references(file) if file else {}
    return [_request(config, row, references) for _, row in rows[: config.limit]]


def score(scorer: Scorer, config: Config, answered: Answered, cache_dir: Path) -> tuple[Scores, list[Item]]:
    """Ratings, or the win rate against an opponent where the judge was shown pairs. Raises UserError without judgments.

    What the judge said unreadably to the end is counted, and every mean says over how many questions it is.
    """
    if not answered.judgments:
        raise UserError("mt_bench: no judgments to score, expected the result of a judge step")
    way = pairs if "winner" in answered.judgments[0] else ratings
    items = way.items(answered)
    unread = sum(row["unparsable"] for row in answered.judgments)
    scores = Scores(
        benchmark="mt_bench",
        primary=way.PRIMARY,
        metrics=way.metrics(items),
        counts={**answer_counts(answered.answers.values()), "unparsable": unread, **way.counts(items)},
        meaningful=not answered.judged_by_itself and config.questions != "demo",
        note=_note(config, answered),
        details=_details(answered),
    )
    return scores, items


def _reference_file(config: Config) -> data.File | None:
    return config.references or (data.REFERENCES if config.questions == "mt_bench" else None)


def _refuse_malformed(rows: list[tuple[str, dict[str, Any]]]) -> None:
    problems = [
        f"{place}: expected an object with question_id, category and turns (one or two texts)"
        for place, row in rows
        if not {"question_id", "category", "turns"} <= row.keys()
        or not data.is_texts(row["turns"])
        or len(row["turns"]) > 2  # no judge prompt shows a third
    ]
    if problems:
        raise UserError(*problems)


def _request(config: Config, row: dict[str, Any], references: dict[str, list[str]]) -> Request:
    name = str(row["question_id"])
    return Request(
        id=name,
        turns=tuple(row["turns"]),
        sampling=Sampling(
            max_tokens=config.max_tokens,
            temperature=TEMPERATURES.get(row["category"], OTHER_TEMPERATURE),
            seed=config.seed,
        ),
        doc={"category": row["category"], "reference": references.get(name, row.get("reference"))},
    )


def _note(config: Config, answered: Answered) -> str:
    notes = []
    if answered.judged_by_itself:
        notes.append("the model judged itself: its ratings show that the path works, not how good the answers are")
    number = len(answered.requests)
    if config.questions == "demo":
        notes.append(f"{number} demonstration questions, not MT-Bench's {NUM_QUESTIONS}")
    elif config.limit is not None:
        notes.append(f"the first {number} questions")
    return "; ".join(notes)


def _details(answered: Answered) -> dict[str, Any]:
    rows = answered.judgments
    return {
        "num_judgments": len(rows),
        "num_parsed": sum(not row["unparsable"] for row in rows),
        "num_retried": sum(row["attempt"] > 0 for row in rows),
        "num_repeats": 1 + max(row["repeat"] for row in rows),
    }
