"""Who answers: a model that is served, perhaps with an adapter on it, or an endpoint; and the asking itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed
from pipeline.stage import Resources, Workspace
from stages._data.template import Template
from stages._serving.names import served_model_name
from stages._serving.settings import Numerics

if TYPE_CHECKING:
    from stages._serving.asking import Asker
    from stages._serving.endpoint import Endpoint
    from stages._serving.engine import Engine
    from stages._serving.prompts import Prompter


@dataclass(frozen=True)
class Respondent:
    """One model as something to ask."""

    fingerprint: str
    """Of its weights (or the endpoint's identity): whose answers these are."""
    engine: Engine
    prompter: Prompter
    max_model_len: int | None
    setting: str
    """What else identifies an answer: `Numerics.of_one_answer`."""


def endpoint_respondent(endpoint: Endpoint, resources: Resources) -> Respondent:
    """An endpoint that somebody else runs."""
    from stages._serving.endpoint import EndpointClient
    from stages._serving.prompts import ChatPrompter, TextPrompter

    prompter = ChatPrompter() if endpoint.api == "chat" else TextPrompter()
    return Respondent(endpoint.fingerprint, EndpointClient(endpoint, resources), prompter, None, "")


def model_respondent(
    model: Artifact, adapter: Artifact | None, template: Template, numerics: Numerics, resources: Resources
) -> Respondent:
    """A model of ours: behind the server that the engine started, or in this process.

    Raises UserError for a template of another tokenizer, StepFailed without a server.
    """
    from stages._serving.prompts import TokenPrompter

    answering = adapter or model
    engine: Engine
    if numerics.engine == "transformers":
        from stages._serving.transformers_engine import TransformersEngine

        engine = TransformersEngine(model.path, adapter.path if adapter else None, numerics, resources)
    else:
        from stages._serving.vllm_client import VllmClient

        if resources.server_url is None:
            raise StepFailed("a model server is needed, and none was started for this step")
        engine = VllmClient(resources.server_url, served_model_name(answering.fingerprint))
    prompter = TokenPrompter.for_model(model.path, template)
    setting = numerics.of_one_answer()
    return Respondent(answering.fingerprint, engine, prompter, numerics.max_model_len, setting)


def ask(
    respondent: Respondent, conversation: Callable[[Asker], Awaitable[None]], out: Workspace, resources: Resources
) -> Asker:
    """Let `conversation` ask what it wants; the asker with every answer. Raises StepFailed when nobody answers."""
    from stages._serving.answers import AnswerStore
    from stages._serving.asking import Asker, run_in_thread
    from stages._serving.progress import ProgressReport

    with AnswerStore.of(respondent.fingerprint, out, resources) as store:
        asker = Asker(respondent, store, ProgressReport(out))

        async def talk() -> None:
            async with respondent.engine:
                await conversation(asker)

        run_in_thread(talk())
    return asker
