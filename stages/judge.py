"""Let a served model rate MT-Bench answers. Reads answers/, model/ (the judge). Writes judgments.jsonl, judge.json.

A rating that cannot be read is asked for again, with other random numbers; what stays unreadable is kept with rating
null, to be counted. An interrupted run asks only for what is missing.
"""

import json
from typing import Annotated, Any

from pydantic import Field

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed
from pipeline.stage import Resources, Workspace
from pipeline.strict import LocalPath, StrictModel
from stages._serving.names import served_model_name
from stages._serving.requests import Answer, Request, Sampling
from stages._serving.settings import Numerics

VERSION = 1


class Config(StrictModel):
    """How the judge is asked."""

    prompts: LocalPath | None = None
    """FastChat's judge_prompts.jsonl; by default short prompts of the same form shipped here."""
    references: LocalPath | None = None
    """FastChat's reference answers; by default those in the questions' own "reference"."""
    answer_start: str = ""
    """Text the judge's reply is made to begin with. "Rating: [[" lets a model rate that is too small to keep to the
    form, but then it rates without explaining first."""
    max_tokens: Annotated[int, Field(ge=1)] = 2048
    temperature: Annotated[float, Field(ge=0)] = 0.0
    num_repeats: Annotated[int, Field(ge=1)] = 1
    """Ratings of each answer; their median counts. More than one needs a temperature above 0."""
    num_retries: Annotated[int, Field(ge=0)] = 2
    """For a rating that cannot be read."""
    retry_temperature: Annotated[float, Field(ge=0)] = 0.7
    seed: int = 0
    serve: Numerics = Numerics()


class Inputs(StrictModel):
    """`model` is the judge; it is asked through the template it was trained with, else its own chat template."""

    answers: Artifact
    model: Artifact


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Needs the judge's server at `resources.server_url`. Raises StepFailed when the server ends."""
    from stages._serving.prompts import Prompter, own_template
    from stages._serving.records import AnswerFile, write_json_lines

    questions = _judge_requests(config, inputs)
    prompter = Prompter.for_model(inputs.model.path, own_template(inputs.model))
    with AnswerFile(out / ".replies.jsonl") as replies:
        _ask_until_readable(config, inputs, questions, prompter, replies, out, resources)
        rows = [
            _judgment(config, question, repeat, replies)
            for question in questions
            for repeat in range(config.num_repeats)
        ]
    write_json_lines(out / "judgments.jsonl", rows)
    _write_judge(inputs, out)
    unread = sum(row["rating"] is None for row in rows)
    return {
        "num_judgments": len(rows),
        "num_unparsable": unread,
        "num_retried": sum(row["attempt"] > 0 for row in rows),
    }


def _judge_requests(config: Config, inputs: Inputs) -> list[Request]:
    """One request for each turn of each answered question."""
    from stages._serving.records import read_json_lines
    from stages.benchmarks._judging import judge_request, load_prompts, load_references

    prompts, references = load_prompts(config.prompts), load_references(config.references)
    asked = [Request.model_validate_json(json.dumps(row)) for row in read_json_lines(inputs.answers / "requests.jsonl")]
    texts = {(row["id"], row["turn"]): row["text"] for row in read_json_lines(inputs.answers / "answers.jsonl")}
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed)
    return [
        judge_request(
            request,
            [texts[request.id, number] for number in range(len(request.turns))],
            turn,
            prompts,
            references.get(request.id, request.doc.get("reference")),
            sampling,
            config.answer_start,
        )
        for request in asked
        for turn in range(len(request.turns))
    ]


def _ask_until_readable(
    config: Config,
    inputs: Inputs,
    questions: list[Request],
    prompter: Any,
    replies: Any,
    out: Workspace,
    resources: Resources,
) -> None:
    """Attempt k of repeat r is stored as sample k * num_repeats + r."""
    from stages._serving.asking import Asker, run_in_thread
    from stages._serving.client import Client
    from stages._serving.progress import ProgressReport

    if resources.server_url is None:
        raise StepFailed("judge needs a model server, and none was started for it")
    client = Client(resources.server_url, served_model_name(inputs.model.fingerprint))
    asker = Asker(client, prompter, replies, config.serve.max_model_len, ProgressReport(out))

    async def ask() -> None:
        async with client:
            for attempt in range(config.num_retries + 1):
                for repeat in range(config.num_repeats):
                    unread = [each for each in questions if _reply(config, each, repeat, replies, attempt) is None]
                    await asker.ask(
                        [_attempt(config, each, attempt) for each in unread], attempt * config.num_repeats + repeat
                    )

    run_in_thread(ask())


def _attempt(config: Config, question: Request, attempt: int) -> Request:
    if attempt == 0:
        return question
    sampling = question.sampling.model_copy(update={"temperature": config.retry_temperature})
    return question.model_copy(update={"sampling": sampling})


def _reply(config: Config, question: Request, repeat: int, replies: Any, attempts: int) -> tuple[int, Answer] | None:
    """(attempt, reply) of the first of so many attempts whose rating can be read."""
    from stages.benchmarks._judging import parse_rating

    for attempt in range(attempts):
        reply = replies.answers.get((question.id, attempt * config.num_repeats + repeat, 0))
        if reply is not None and parse_rating(config.answer_start + reply.text) is not None:
            return attempt, reply
    return None


def _judgment(config: Config, question: Request, repeat: int, replies: Any) -> dict[str, Any]:
    from stages.benchmarks._judging import parse_rating

    attempt, reply = _reply(config, question, repeat, replies, config.num_retries + 1) or (
        config.num_retries,
        replies.answers[question.id, config.num_retries * config.num_repeats + repeat, 0],
    )
    return {
        **question.doc,
        "repeat": repeat,
        "attempt": attempt,
        "rating": parse_rating(config.answer_start + reply.text),
        "text": config.answer_start + reply.text,
        "finish_reason": reply.finish_reason,
    }


def _write_judge(inputs: Inputs, out: Workspace) -> None:
    """judge.json: who judged whom."""
    from stages._data.template import FILE

    answered = json.loads((inputs.answers / "generation.json").read_text())["model_fingerprint"]
    record = {
        "judge_fingerprint": inputs.model.fingerprint,
        "judged_fingerprint": answered,
        "judged_by_itself": answered == inputs.model.fingerprint,
        "template": "its own" if (inputs.model / FILE).exists() else "the tokenizer's chat template",
    }
    (out / "judge.json").write_text(json.dumps(record, indent=2) + "\n")
