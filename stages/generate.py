"""Ask a served model a benchmark's questions. Reads model/, template/, data/. Writes requests.jsonl, answers.jsonl.

Also writes generation.json: what was asked, of which model, through which template.
An interrupted run asks only for the answers that are missing.
"""

import json
from pathlib import Path
from typing import Any

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed
from pipeline.stage import Resources, Workspace
from pipeline.strict import StrictModel
from stages._serving.names import served_model_name
from stages._serving.requests import Answer, Request
from stages._serving.settings import Numerics
from stages.benchmarks import AnyBenchmark

VERSION = 1


class Config(StrictModel):
    """What is asked, and the settings of the server that can change an answer."""

    benchmark: AnyBenchmark
    serve: Numerics = Numerics()


class Inputs(StrictModel):
    """`template`: a tokenize artifact. `data`: for benchmarks whose problems are prepared by a step."""

    model: Artifact
    template: Artifact
    data: Artifact | None = None


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Needs the model's server at `resources.server_url`.

    Raises UserError when the model was trained with another template; StepFailed when the server ends.
    """
    from stages._data.template import Template
    from stages._serving.prompts import Prompter, refuse_other_template
    from stages._serving.records import AnswerFile, write_json_lines

    template = Template.load(inputs.template.path)
    refuse_other_template(inputs.model, template)
    requests = _requests(config, inputs, out)
    write_json_lines(out / "requests.jsonl", (request.model_dump(mode="json") for request in requests))
    _write_generation(out / "generation.json", config, inputs, template.template_sha256)
    prompter = Prompter.for_model(inputs.model.path, template)
    with AnswerFile(out / "answers.jsonl") as answers:
        speed = _ask(requests, prompter, answers, config, inputs, out, resources)
        ordered = answers.finish({request.id: number for number, request in enumerate(requests)})
    return {**_metrics(requests, ordered), **speed}


def _requests(config: Config, inputs: Inputs, out: Workspace) -> list[Request]:
    from stages.benchmarks import benchmark_module

    module = benchmark_module(config.benchmark)
    return module.requests(config.benchmark, inputs.data.path if inputs.data else None, out / ".cache")


def _ask(
    requests: list[Request],
    prompter: Any,
    answers: Any,
    config: Config,
    inputs: Inputs,
    out: Workspace,
    resources: Resources,
) -> dict[str, float]:
    from stages._serving.asking import Asker, run_in_thread
    from stages._serving.client import Client
    from stages._serving.progress import ProgressReport

    if resources.server_url is None:
        raise StepFailed("generate needs a model server, and none was started for it")
    client = Client(resources.server_url, served_model_name(inputs.model.fingerprint))
    asker = Asker(client, prompter, answers, config.serve.max_model_len, ProgressReport(out))

    async def ask() -> None:
        async with client:
            await asker.ask(requests)

    run_in_thread(ask())
    return {"num_asked": asker.num_asked, "output_tokens_per_second": round(asker.tokens_per_second, 1)}


def _write_generation(path: Path, config: Config, inputs: Inputs, template_sha256: str) -> None:
    record = {
        "benchmark": config.benchmark.model_dump(mode="json"),
        "serve": config.serve.model_dump(mode="json"),
        "model_fingerprint": inputs.model.fingerprint,
        "template_sha256": template_sha256,
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
