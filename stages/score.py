"""Score stored answers, without a model. Reads answers/, judgments/, data/. Writes scores.json, items.jsonl."""

import json
from typing import Any

from pydantic import TypeAdapter

from pipeline.artifact import Artifact
from pipeline.errors import UserError
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import StrictModel
from stages import _needs
from stages._serving.requests import Answer, Request
from stages.benchmarks import AnyBenchmark, AnyScorer, benchmark_module
from stages.benchmarks._programs import ProgramScorer
from stages.benchmarks.base import Answered

VERSION = 2  # intervals, more counts


class Config(StrictModel):
    """The scorer's options; its `name` must be the benchmark's."""

    scorer: AnyScorer


class Inputs(StrictModel):
    """`judgments`: for benchmarks that a judge rates. `data`: what `generate` was given."""

    answers: Artifact
    judgments: Artifact | None = None
    data: Artifact | None = None


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs:
    """What streams through, and programs of which few come near their limit."""
    programs = config.scorer.memory_mib * 2**20 if isinstance(config.scorer, ProgramScorer) else 0
    return Needs(memory_bytes=_needs.PYTHON_BYTES + programs)


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Raises UserError when the answers belong to another benchmark or are not complete."""
    generation = _read_json(inputs.answers, "generation.json")
    benchmark = TypeAdapter(AnyBenchmark).validate_json(json.dumps(generation["benchmark"]))
    if benchmark.name != config.scorer.name:
        raise UserError(
            f"scorer.name: got {config.scorer.name}, expected {benchmark.name} as in the answers' benchmark"
        )
    answered = _read(inputs, out)
    scores, items = benchmark_module(benchmark).score(config.scorer, benchmark, answered, out / ".cache")
    (out / "scores.json").write_text(json.dumps(scores.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")
    _write_items(out, items)
    primary = scores.metrics.get(scores.primary)
    return {
        "primary": scores.primary,
        "value": primary.value if primary else None,
        "stderr": primary.stderr if primary else None,
        "n": primary.n if primary else 0,
        **{f"num_{name}": number for name, number in scores.counts.items()},
    }


def _read(inputs: Inputs, out: Workspace) -> Answered:
    from stages._serving.records import read_json_lines

    requests = [
        Request.model_validate_json(json.dumps(row)) for row in read_json_lines(inputs.answers / "requests.jsonl")
    ]
    answers = {
        answer.key: answer for answer in map(Answer.model_validate, read_json_lines(inputs.answers / "answers.jsonl"))
    }
    _refuse_incomplete(inputs, requests, answers)
    judgments = inputs.judgments
    return Answered(
        requests=requests,
        answers=answers,
        data_dir=inputs.data.path if inputs.data else None,
        judgments=read_json_lines(judgments / "judgments.jsonl") if judgments else (),
        judged_by_itself=judgments is not None and _read_json(judgments, "judge.json")["judged_by_itself"],
        files_dir=out.path,
    )


def _read_json(artifact: Artifact, name: str) -> Any:
    return json.loads((artifact / name).read_text())


def _refuse_incomplete(inputs: Inputs, requests: list[Request], answers: dict[tuple[str, int, int], Answer]) -> None:
    missing = [
        request.id
        for request in requests
        for sample in range(request.num_samples)
        for turn in range(len(request.turns))
        if (request.id, sample, turn) not in answers
    ]
    if missing:
        raise UserError(
            f"{inputs.answers.path}: {len(missing)} answers are missing, such as {missing[0]}; generate again"
        )


def _write_items(out: Workspace, items: list[dict[str, Any]]) -> None:
    from stages._serving.records import write_json_lines

    write_json_lines(out / "items.jsonl", items)
