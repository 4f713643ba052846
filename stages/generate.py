"""Ask a model a benchmark's questions. Reads model/, adapter/, template/, data/. Writes requests.jsonl, answers.jsonl.

Also writes generation.json: what was asked, of which model, through which template. Every answer is kept in the store
as it arrives (STORE/answers), so that an interrupted or a larger run asks only for those that are missing.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from pipeline.artifact import Artifact
from pipeline.downloads import Download
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import StrictModel
from stages import _needs
from stages._data.prompts import Prompt
from stages._serving.endpoint import Endpoint
from stages._serving.requests import Answer, Request
from stages._serving.settings import Numerics
from stages.benchmarks import AnyBenchmark

if TYPE_CHECKING:
    from stages._data.template import Template
    from stages._serving.asking import Asker
    from stages._serving.respondent import Respondent

VERSION = 2


class Config(StrictModel):
    """What is asked, and the settings of the server that can change an answer."""

    benchmark: AnyBenchmark
    serve: Numerics = Numerics()
    template: Prompt | None = None
    """For a model that brings no template of its training; by default the chat template of its tokenizer."""
    endpoint: Endpoint | None = None
    """Ask this endpoint instead of a model of ours."""


class Inputs(StrictModel):
    """Who is asked: a model, a model with an adapter on it, or (neither) the config's endpoint.

    `template`: a tokenize artifact. `data`: for benchmarks whose problems are prepared by a step.
    """

    model: Artifact | None = None
    adapter: Artifact | None = None
    template: Artifact | None = None
    data: Artifact | None = None

    @model_validator(mode="after")
    def _an_adapter_is_on_a_model(self) -> "Inputs":
        if self.adapter and not self.model:
            raise ValueError("adapter: found without a model, expected its base as `model`")
        return self


def downloads(config: Config, roles: frozenset[str]) -> list[Download]:
    """The benchmark's own problems, unless a step prepares them."""
    from stages.benchmarks import downloads as of_benchmark

    return [] if "data" in roles else of_benchmark(config.benchmark)


def preflight(config: Config, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Whether an endpoint's key is there."""
    return config.endpoint.problems() if config.endpoint else []


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs | None:
    """Little, where the model is elsewhere."""
    return _needs.streaming() if config.endpoint else None


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """A model of ours needs its server at `resources.server_url` (engine vllm).

    A merged model is first asked what its merge saw it say. Raises UserError when the model was trained with another
    template; StepFailed when the server ends, or does not serve what was merged.
    """
    from stages._serving.probes import require_agreement
    from stages._serving.records import write_json_lines
    from stages._serving.respondent import ask

    template = _template(config, inputs)
    respondent = _respondent(config, inputs, template, resources)
    requests = _requests(config, inputs, out)
    write_json_lines(out / "requests.jsonl", (request.model_dump(mode="json") for request in requests))
    served: dict[str, Any] = {}

    async def conversation(asker: "Asker") -> None:
        if inputs.model and not inputs.adapter:
            served.update(await require_agreement(respondent.engine, inputs.model, config.serve))
        await asker.ask(requests)

    asker = ask(respondent, conversation, out, resources)
    answers = _in_order(requests, asker.answers)
    write_json_lines(out / "answers.jsonl", (answer.model_dump(mode="json") for answer in answers))
    _write_generation(out / "generation.json", config, respondent.fingerprint, template)
    speed = {"num_asked": asker.num_asked, "output_tokens_per_second": round(asker.tokens_per_second, 1)}
    return {**_metrics(requests, answers), **served, **speed}


def _template(config: Config, inputs: Inputs) -> "Template | None":
    """The one of the track; else the model's own; None where an endpoint has it. Refuses another than the trained."""
    from stages._data.template import Template
    from stages._serving.prompts import own_template, refuse_other_template

    if inputs.model is None:
        return None
    trained = inputs.adapter or inputs.model
    if inputs.template is None:
        return own_template(trained, inputs.model, config.template)
    template = Template.load(inputs.template.path)
    refuse_other_template(trained, template)
    return template


def _respondent(config: Config, inputs: Inputs, template: "Template | None", resources: Resources) -> "Respondent":
    from pipeline.errors import UserError
    from stages._serving.respondent import endpoint_respondent, model_respondent

    if inputs.model and template and not config.endpoint:
        return model_respondent(inputs.model, inputs.adapter, template, config.serve, resources)
    if config.endpoint and not inputs.model:
        return endpoint_respondent(config.endpoint, resources)
    raise UserError("generate: found both or none of a model and an endpoint, expected one of the two")


def _requests(config: Config, inputs: Inputs, out: Workspace) -> list[Request]:
    from stages.benchmarks import benchmark_module

    module = benchmark_module(config.benchmark)
    return module.requests(config.benchmark, inputs.data.path if inputs.data else None, out / ".cache")


def _in_order(requests: list[Request], answers: dict[tuple[str, int, int], Answer]) -> list[Answer]:
    """Those that were asked for, request by request, sample by sample, turn by turn."""
    return [
        answers[request.id, sample, turn]
        for request in requests
        for sample in range(request.num_samples)
        for turn in range(len(request.turns))
    ]


def _write_generation(path: Path, config: Config, fingerprint: str, template: "Template | None") -> None:
    record = {
        "benchmark": config.benchmark.model_dump(mode="json"),
        "serve": config.serve.model_dump(mode="json"),
        "model_fingerprint": fingerprint,
        "template_sha256": template.template_sha256 if template else None,
        "endpoint": config.endpoint.model_dump(mode="json") if config.endpoint else None,
    }
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _metrics(requests: list[Request], answers: list[Answer]) -> dict[str, Any]:
    from stages.benchmarks.base import answer_counts

    counts = {f"num_{name}": number for name, number in answer_counts(answers).items()}
    return {
        "num_requests": len(requests),
        "num_answers": len(answers),
        **counts,
        "num_output_tokens": sum(answer.num_tokens for answer in answers),
    }
