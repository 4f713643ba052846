"""Any server with the OpenAI API: a model that somebody else serves."""

import os
import time
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints

from pipeline import machine
from pipeline.errors import StepFailed, UserError
from pipeline.fingerprint import fingerprint
from pipeline.stage import Resources
from pipeline.strict import StrictModel
from stages._serving.engine import Completion
from stages._serving.prompt import Prompt
from stages._serving.requests import REFUSED, Sampling

PATIENCE_SECONDS = 600.0
"""How long an endpoint may fail, or ask to wait, before the step gives up."""
MAX_CONCURRENT = 16


class Endpoint(StrictModel):
    """A model behind an OpenAI-compatible URL."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+(/\S*)?$")]
    """With its version, such as https://api.openai.com/v1."""
    model: str = Field(min_length=1)
    """As the endpoint names it; choose a dated version, since the name alone may come to mean another model."""
    api: Literal["chat", "completions"] = "chat"
    """`chat` sends conversations, `completions` plain text, and log-likelihoods too (`echo` with `logprobs`)."""
    api_key_variable: str | None = None
    """The environment variable that holds the key; the key itself is never written anywhere."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the limit of an answer."""

    @property
    def fingerprint(self) -> str:
        """Stands for the model where there are no weights to hash; where the key is kept is no part of it."""
        identity = self.canonical()
        identity.pop("api_key_variable", None)
        return fingerprint("endpoint", 1, identity, {})

    def problems(self) -> list[str]:
        """What can be seen without asking it. A job may get the key where it runs."""
        if machine.is_here() and self.api_key_variable and not os.environ.get(self.api_key_variable):
            return [f"endpoint {self.url}: the environment variable {self.api_key_variable} is not set; export the key"]
        return []


class EndpointClient:
    """An `Engine`. Raises UserError without its key; StepFailed when a request is refused or keeps failing."""

    max_model_len: int | None = None

    def __init__(self, endpoint: Endpoint, resources: Resources, patience_seconds: float = PATIENCE_SECONDS) -> None:
        from stages._serving.http import JsonClient

        if problems := endpoint.problems():
            raise UserError(*problems)
        key = os.environ[endpoint.api_key_variable] if endpoint.api_key_variable else None
        self._endpoint = endpoint
        self._http = JsonClient(endpoint.url.rstrip("/"), key, patience_seconds, trust_env=True)
        self._pace = Pace(resources.max_requests_per_minute)
        self.num_in_flight = resources.max_concurrent_requests or MAX_CONCURRENT
        self.answered_as: set[str] = set()
        """What the endpoint called the model in its answers."""

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.__aexit__()

    async def complete(self, prompt: Prompt, sampling: Sampling, seed: int) -> Completion:
        body = {
            self._endpoint.max_tokens_field: sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **({"stop": list(prompt.stop)} if prompt.stop else {}),
            **({"seed": seed} if sampling.temperature > 0 else {}),
        }
        if prompt.messages is not None:
            return await self._chat(prompt, body)
        answer = await self._post("/completions", {"prompt": prompt.text, **body})
        if answer is None:
            return Completion("", REFUSED[0], None, 0)
        choice = answer["choices"][0]
        return Completion(choice["text"], choice.get("finish_reason") or "unknown", *_usage(answer))

    async def loglikelihood(self, prompt: Prompt) -> Completion:
        """Of the text after the context, by the endpoint's own tokens: those that begin within it."""
        text, scored = prompt.text or "", prompt.scored or ""
        body = {"prompt": text + scored, self._endpoint.max_tokens_field: 1, "temperature": 0, "logprobs": 1}
        answer = await self._post("/completions", {**body, "echo": True})
        choice = answer["choices"][0] if answer else {}
        logprobs = choice.get("logprobs") or {}
        offsets, values = logprobs.get("text_offset"), logprobs.get("token_logprobs")
        if not offsets or not values or values[0] is not None:
            raise StepFailed(
                f"{self._endpoint.url}: gave no log-probabilities of the prompt, expected them for `echo` with "
                "`logprobs`; ask this endpoint for answers only"
            )
        end = len(text) + len(scored)
        chosen = [k for k, offset in enumerate(offsets) if len(text) <= offset < end and k > 0]
        best = [max((logprobs["top_logprobs"][k] or {}).values(), default=values[k]) for k in chosen]
        return Completion(
            text="",
            finish_reason="scored",
            num_prompt_tokens=None,
            num_tokens=0,
            loglikelihood=sum(values[k] for k in chosen),
            is_greedy=all(values[k] >= top for k, top in zip(chosen, best, strict=True)),
        )

    async def _chat(self, prompt: Prompt, body: dict[str, Any]) -> Completion:
        messages = [message.model_dump() for message in prompt.messages or ()]
        answer = await self._post("/chat/completions", {"messages": messages, **body})
        if answer is None:
            return Completion("", REFUSED[0], None, 0)
        choice = answer["choices"][0]
        message = choice["message"]
        if message.get("refusal"):
            return Completion(message["refusal"], REFUSED[1], *_usage(answer))
        return Completion(message.get("content") or "", choice.get("finish_reason") or "unknown", *_usage(answer))

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer, or None where the endpoint's filter declined the prompt."""
        from stages._serving.http import Refused

        await self._pace.wait()
        try:
            answer = await self._http.ask("POST", path, {"model": self._endpoint.model, **body})
        except Refused as refused:
            if REFUSED[0] in refused.body:
                return None
            raise
        if not answer.get("choices"):
            raise StepFailed(f"{self._endpoint.url}{path}: an answer without choices: {str(answer)[:300]}")
        self.answered_as.add(str(answer.get("model", self._endpoint.model)))
        return answer


class Pace:
    """At most so many requests a minute, evenly spaced."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval_seconds = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        """Return when the next request may be sent."""
        import asyncio  # planning needs an endpoint's config only, and no event loop

        now = time.monotonic()
        turn = max(now, self._next)
        self._next = turn + self._interval_seconds
        await asyncio.sleep(turn - now)


def _usage(answer: dict[str, Any]) -> tuple[int | None, int]:
    usage = answer.get("usage") or {}
    return usage.get("prompt_tokens"), usage.get("completion_tokens") or 0
