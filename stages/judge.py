"""Let a model judge MT-Bench answers. Reads answers/, opponent/, model/ (the judge). Writes judgments.jsonl.

Also writes judge.json: who judged whom, how. A reply that cannot be read is asked for again, with other random numbers;
what stays unreadable is kept as such, to be counted. Replies are kept in the store as they arrive (STORE/answers), so
that an interrupted run asks only for those that are missing.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.artifact import Artifact
from pipeline.downloads import Download
from pipeline.errors import UserError
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import StrictModel
from stages import _needs
from stages._data.prompts import Prompt
from stages._serving.endpoint import Endpoint
from stages._serving.requests import Answer, Request, Sampling
from stages._serving.settings import Numerics
from stages.benchmarks._mt_bench_data import PromptSet

if TYPE_CHECKING:
    from stages._serving.asking import Asker
    from stages._serving.respondent import Respondent

VERSION = 2  # FastChat's own prompts by default, pairs

MOST_REPEATS = 1000

Replies = dict[tuple[str, int, int], Answer]
"""By (request id, sample, 0)."""


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
    num_repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS)] = 1
    """Judgments of each answer; their median counts. Of a model of ours, more than one needs a temperature above 0."""
    num_retries: Annotated[int, Field(ge=0)] = 2
    """For a reply that cannot be read."""
    retry_temperature: Annotated[float, Field(ge=0)] = 0.7
    seed: int = 0
    serve: Numerics = Numerics()
    template: Prompt | None = None
    """For a judge that brings no template of its training; by default the chat template of its tokenizer."""
    endpoint: Endpoint | None = None
    """A judge that somebody else serves, instead of a model of ours."""

    @model_validator(mode="after")
    def _repeats_differ(self) -> Self:
        if self.num_repeats > 1 and self.temperature == 0 and self.endpoint is None:
            raise ValueError(
                f"num_repeats: found {self.num_repeats} with temperature 0, expected a temperature above 0: "
                f"a greedy judge repeats itself"
            )
        return self

    @model_validator(mode="after")
    def _an_endpoint_is_asked_in_conversations(self) -> Self:
        if self.endpoint and self.endpoint.api != "chat":
            raise ValueError(
                f"endpoint.api: found {self.endpoint.api}, expected chat: a judge is asked in conversations"
            )
        if self.endpoint and self.answer_start:
            raise ValueError(
                f"answer_start: found {self.answer_start!r}, expected none: an endpoint begins its own reply"
            )
        return self


class Inputs(StrictModel):
    """The judge is a model, a model with an adapter on it, or (neither) the config's endpoint.

    `opponent`: another model's answers to the same questions, for pairwise comparison.
    """

    answers: Artifact
    opponent: Artifact | None = None
    model: Artifact | None = None
    adapter: Artifact | None = None


def on_mirror(config: Config, mirror: Path) -> Config:
    """The config with FastChat's judge prompts of a mirror folder, where it has them and the recipe names none."""
    prompts = mirror / "mt_bench" / "judge_prompts.jsonl"
    return (
        config.model_copy(update={"prompts": prompts}) if config.prompts == "fastchat" and prompts.is_file() else config
    )


def downloads(config: Config, roles: frozenset[str]) -> list[Download]:
    """The judge's prompts."""
    from stages.benchmarks import _mt_bench_data as data

    return data.downloads(data.prompt_file(config.prompts))


def preflight(config: Config, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Whether the judge's prompts are here or can be fetched, and the key of an endpoint is there."""
    from stages.benchmarks import _mt_bench_data as data

    line = data.problem(data.prompt_file(config.prompts), "fastchat, demo")
    return ([f"judge: prompts: {line}"] if line else []) + (config.endpoint.problems() if config.endpoint else [])


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs | None:
    """Little, where the model is elsewhere."""
    return _needs.streaming() if config.endpoint else None


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """A judge of ours needs its server at `resources.server_url` (engine vllm).

    Raises UserError for questions that cannot be judged; StepFailed when the server ends.
    """
    from stages._serving.records import write_json_lines
    from stages._serving.respondent import ask

    questions = _judge_requests(config, inputs)
    respondent = _respondent(config, inputs, resources)
    asker = ask(respondent, lambda asker: _ask_until_readable(config, questions, asker), out, resources)
    rows = [
        _judgment(config, question, repeat, asker.answers)
        for question in questions
        for repeat in range(config.num_repeats)
    ]
    write_json_lines(out / "judgments.jsonl", rows)
    _write_judge(config, inputs, respondent, out)
    return {
        "num_judgments": len(rows),
        "num_unparsable": sum(row["unparsable"] for row in rows),
        "num_retried": sum(row["attempt"] > 0 for row in rows),
        "num_asked": asker.num_asked,
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


def _respondent(config: Config, inputs: Inputs, resources: Resources) -> "Respondent":
    """The judge: a model asked through the template it was trained with or its own, or an endpoint."""
    from stages._serving.prompts import own_template
    from stages._serving.respondent import endpoint_respondent, model_respondent

    if inputs.model and not config.endpoint:
        template = own_template(inputs.adapter or inputs.model, inputs.model, config.template)
        return model_respondent(inputs.model, inputs.adapter, template, config.serve, resources)
    if config.endpoint and not inputs.model:
        return endpoint_respondent(config.endpoint, resources)
    raise UserError("judge: found both or none of a model and an endpoint, expected one of the two")


async def _ask_until_readable(config: Config, questions: list[Request], asker: "Asker") -> None:
    """All repeats at once; then what cannot be read is asked for again, as another sample."""
    await asker.ask([each.model_copy(update={"num_samples": config.num_repeats}) for each in questions])
    for attempt in range(1, config.num_retries + 1):
        for repeat in range(config.num_repeats):
            unread = [each for each in questions if _readable(config, each, repeat, asker.answers, attempt) is None]
            await asker.ask([_again(config, each) for each in unread], _sample(attempt, repeat))


def _sample(attempt: int, repeat: int) -> int:
    """The number under which a reply is stored: it stays the same when more repeats are asked for."""
    return attempt * MOST_REPEATS + repeat


def _again(config: Config, question: Request) -> Request:
    sampling = question.sampling.model_copy(update={"temperature": config.retry_temperature})
    return question.model_copy(update={"sampling": sampling})


def _readable(
    config: Config, question: Request, repeat: int, replies: Replies, attempts: int
) -> tuple[int, Answer] | None:
    """(attempt, reply) of the first of so many attempts whose rating or verdict can be read."""
    for attempt in range(attempts):
        reply = replies.get((question.id, _sample(attempt, repeat), 0))
        if reply is not None and _read(config, reply) is not None:
            return attempt, reply
    return None


def _read(config: Config, reply: Answer) -> float | str | None:
    from stages.benchmarks._judging import parse_rating, parse_verdict

    return (parse_rating if config.mode == "single" else parse_verdict)(config.answer_start + reply.text)


def _judgment(config: Config, question: Request, repeat: int, replies: Replies) -> dict[str, Any]:
    """A row of judgments.jsonl. `winner`: model, opponent or tie."""
    attempt, reply = _readable(config, question, repeat, replies, config.num_retries + 1) or (
        config.num_retries,
        replies[question.id, _sample(config.num_retries, repeat), 0],
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


def _write_judge(config: Config, inputs: Inputs, respondent: "Respondent", out: Workspace) -> None:
    """judge.json: who judged whom, with which prompts."""
    import hashlib

    from stages.benchmarks._mt_bench_data import content, prompt_file

    judged = [_generation(answers) for answers in (inputs.answers, inputs.opponent) if answers]
    record = {
        "mode": config.mode,
        "judge_fingerprint": respondent.fingerprint,
        "endpoint": config.endpoint.model_dump(mode="json") if config.endpoint else None,
        "answered_as": sorted(getattr(respondent.engine, "answered_as", ())),
        "judged_fingerprint": judged[0]["model_fingerprint"],
        "opponent_fingerprint": judged[1]["model_fingerprint"] if inputs.opponent else None,
        "judged_by_itself": any(_is_judge(config, respondent, each) for each in judged),
        "prompts_sha256": hashlib.sha256(content(prompt_file(config.prompts))).hexdigest(),
        "temperature": config.temperature,
        "num_repeats": config.num_repeats,
    }
    (out / "judge.json").write_text(json.dumps(record, indent=2) + "\n")


def _generation(answers: Artifact) -> dict[str, Any]:
    return dict(json.loads((answers / "generation.json").read_text()))


def _is_judge(config: Config, respondent: "Respondent", generation: dict[str, Any]) -> bool:
    """Whether the answers are the judge's own; two ways of asking one endpoint's model reach the same model."""
    other = generation.get("endpoint")
    if config.endpoint and other:
        return (config.endpoint.url.rstrip("/"), config.endpoint.model) == (other["url"].rstrip("/"), other["model"])
    return bool(respondent.fingerprint == generation["model_fingerprint"])
