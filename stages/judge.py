"""Let a served model judge MT-Bench answers. Reads answers/, opponent/, model/ (the judge). Writes judgments.jsonl.

Also writes judge.json: who judged whom, how. A reply that cannot be read is asked for again, with other random numbers;
what stays unreadable is kept as such, to be counted. An interrupted run asks only for what is missing.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed, UserError
from pipeline.stage import Resources, Workspace
from pipeline.strict import StrictModel
from stages._serving.names import served_model_name
from stages._serving.requests import Answer, Request, Sampling
from stages._serving.settings import Numerics
from stages.benchmarks._mt_bench_data import PromptSet

VERSION = 2  # FastChat's own prompts by default, pairs


class Config(StrictModel):
    """How the judge is asked."""

    mode: Literal["single", "pairwise"] = "single"
    """Rate each answer from 1 to 10, or compare it with an opponent's, in both orders."""
    prompts: PromptSet = "fastchat"
    """`fastchat`, `demo` (short ones of the same form, shipped here), or a file like FastChat's judge_prompts.jsonl."""
    answer_start: str = ""
    """Text the judge's reply is made to begin with. "Rating: [[" lets a model rate that is too small to keep to the
    form, but then it rates without explaining first."""
    max_tokens: Annotated[int, Field(ge=1)] = 2048
    """Of a reply; 2048 is FastChat's."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    num_repeats: Annotated[int, Field(ge=1)] = 1
    """Judgments of each answer; their median counts. More than one needs a temperature above 0."""
    num_retries: Annotated[int, Field(ge=0)] = 2
    """For a reply that cannot be read."""
    retry_temperature: Annotated[float, Field(ge=0)] = 0.7
    seed: int = 0
    serve: Numerics = Numerics()

    @model_validator(mode="after")
    def _repeats_differ(self) -> Self:
        if self.num_repeats > 1 and self.temperature == 0:
            raise ValueError(
                f"num_repeats: found {self.num_repeats} with temperature 0, expected a temperature above 0: "
                f"a greedy judge repeats itself"
            )
        return self


class Inputs(StrictModel):
    """`model` is the judge; it is asked through the template it was trained with, else its own chat template.

    `opponent`: another model's answers to the same questions, for pairwise comparison.
    """

    answers: Artifact
    opponent: Artifact | None = None
    model: Artifact


def on_mirror(config: Config, mirror: Path) -> Config:
    """The config with FastChat's judge prompts of a mirror folder, where it has them and the recipe names none."""
    prompts = mirror / "mt_bench" / "judge_prompts.jsonl"
    return (
        config.model_copy(update={"prompts": prompts}) if config.prompts == "fastchat" and prompts.is_file() else config
    )


def preflight(config: Config, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Whether the judge's prompts are here or can be fetched."""
    from stages.benchmarks import _mt_bench_data as data

    line = data.problem(data.prompt_file(config.prompts), "fastchat, demo")
    return [f"judge: prompts: {line}"] if line else []


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Needs the judge's server at `resources.server_url`.

    Raises UserError for questions that cannot be judged; StepFailed when the server ends.
    """
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
    _write_judge(config, inputs, out)
    return {
        "num_judgments": len(rows),
        "num_unparsable": sum(row["unparsable"] for row in rows),
        "num_retried": sum(row["attempt"] > 0 for row in rows),
    }


def _judge_requests(config: Config, inputs: Inputs) -> list[Request]:
    """One request for each turn of each answered question; two, in both orders, against an opponent."""
    from stages.benchmarks._judging import Asked, load_prompts, pair_request, rating_request
    from stages.benchmarks._mt_bench_data import prompt_file

    _refuse_other_inputs(config, inputs)
    prompts = load_prompts(prompt_file(config.prompts), config.mode)
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed)
    asked = Asked(mode=config.mode, sampling=sampling, answer_start=config.answer_start)
    requests, texts = _read_answers(inputs.answers)
    turns = [(each, turn) for each in requests for turn in range(len(each.turns))]
    if inputs.opponent is None:
        return [rating_request(each, texts[each.id], turn, prompts, asked) for each, turn in turns]
    opponents = _opponents_answers(requests, inputs.opponent)
    return [
        pair_request(each, texts[each.id], opponents[each.id], turn, model_is, prompts, asked)
        for each, turn in turns
        for model_is in ("A", "B")
    ]


def _refuse_other_inputs(config: Config, inputs: Inputs) -> None:
    if config.mode == "pairwise" and inputs.opponent is None:
        raise UserError("judge.mode: pairwise needs another model's answers to compare with, found none as `opponent`")
    if config.mode == "single" and inputs.opponent is not None:
        raise UserError("judge.mode: single rates one model's answers, found another's as `opponent`; use pairwise")


def _read_answers(answers: Artifact) -> tuple[list[Request], dict[str, list[str]]]:
    """The questions, and the answers to each by turn."""
    from stages._serving.records import read_json_lines

    requests = [Request.model_validate_json(json.dumps(row)) for row in read_json_lines(answers / "requests.jsonl")]
    by_turn = {(row["id"], row["turn"]): row["text"] for row in read_json_lines(answers / "answers.jsonl")}
    return requests, {each.id: [by_turn[each.id, turn] for turn in range(len(each.turns))] for each in requests}


def _opponents_answers(requests: list[Request], opponent: Artifact) -> dict[str, list[str]]:
    """By question. Raises UserError when the opponent was not asked the same."""
    others, texts = _read_answers(opponent)
    turns = {other.id: other.turns for other in others}
    different = [each.id for each in requests if turns.get(each.id) != each.turns]
    if different:
        raise UserError(
            f"{opponent.path}: {len(different)} of {len(requests)} questions were not asked of the opponent in these "
            f"words, such as {different[0]}; let both models answer the same benchmark"
        )
    return texts


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
                    unread = [each for each in questions if _readable(config, each, repeat, replies, attempt) is None]
                    await asker.ask(
                        [_attempt(config, each, attempt) for each in unread], attempt * config.num_repeats + repeat
                    )

    run_in_thread(ask())


def _attempt(config: Config, question: Request, attempt: int) -> Request:
    if attempt == 0:
        return question
    sampling = question.sampling.model_copy(update={"temperature": config.retry_temperature})
    return question.model_copy(update={"sampling": sampling})


def _readable(config: Config, question: Request, repeat: int, replies: Any, attempts: int) -> tuple[int, Answer] | None:
    """(attempt, reply) of the first of so many attempts whose rating or verdict can be read."""
    for attempt in range(attempts):
        reply = replies.answers.get((question.id, attempt * config.num_repeats + repeat, 0))
        if reply is not None and _read(config, reply) is not None:
            return attempt, reply
    return None


def _read(config: Config, reply: Answer) -> float | str | None:
    from stages.benchmarks._judging import parse_rating, parse_verdict

    return (parse_rating if config.mode == "single" else parse_verdict)(config.answer_start + reply.text)


def _judgment(config: Config, question: Request, repeat: int, replies: Any) -> dict[str, Any]:
    """A row of judgments.jsonl. `winner`: model, opponent or tie."""
    attempt, reply = _readable(config, question, repeat, replies, config.num_retries + 1) or (
        config.num_retries,
        replies.answers[question.id, config.num_retries * config.num_repeats + repeat, 0],
    )
    read = _read(config, reply)
    said = {"rating": read} if config.mode == "single" else {"verdict": read, "winner": _winner(question, read)}
    return {
        **question.doc,
        "repeat": repeat,
        "attempt": attempt,
        **said,
        "unparsable": read is None,
        "text": config.answer_start + reply.text,
        "finish_reason": reply.finish_reason,
    }


def _winner(question: Request, verdict: Any) -> str | None:
    if verdict in ("A", "B"):
        return "model" if verdict == question.doc["model_is"] else "opponent"
    return verdict


def _write_judge(config: Config, inputs: Inputs, out: Workspace) -> None:
    """judge.json: who judged whom, with which prompts."""
    import hashlib

    from stages._data.template import FILE
    from stages.benchmarks._mt_bench_data import content, prompt_file

    judged = [_answering_model(answers) for answers in (inputs.answers, inputs.opponent) if answers]
    record = {
        "mode": config.mode,
        "judge_fingerprint": inputs.model.fingerprint,
        "judged_fingerprint": judged[0],
        "opponent_fingerprint": judged[1] if inputs.opponent else None,
        "judged_by_itself": inputs.model.fingerprint in judged,
        "template": "its own" if (inputs.model / FILE).exists() else "the tokenizer's chat template",
        "prompts_sha256": hashlib.sha256(content(prompt_file(config.prompts))).hexdigest(),
        "temperature": config.temperature,
        "num_repeats": config.num_repeats,
    }
    (out / "judge.json").write_text(json.dumps(record, indent=2) + "\n")


def _answering_model(answers: Artifact) -> str:
    return str(json.loads((answers / "generation.json").read_text())["model_fingerprint"])
