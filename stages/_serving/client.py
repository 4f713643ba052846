"""An asynchronous client of an OpenAI-compatible completions server that is given exact token ids."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import httpx

from pipeline.errors import StepFailed
from stages._serving.requests import Sampling

PATIENCE_SECONDS = 30.0
"""How long a failing server is asked again before the step gives up."""
READ_TIMEOUT_SECONDS = 1800.0
"""For one answer, waiting in the server's queue included."""


@dataclass(frozen=True)
class Completion:
    """What the server made of one prompt."""

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_tokens: int


class Client:
    """Completions of one model. Enter it (`async with`) to check that the server serves that model.

    Raises StepFailed when the server is gone, serves another model, or refuses a request.
    """

    def __init__(self, base_url: str, model: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.model = model
        self.max_model_len: int | None = None
        self._patience_seconds = patience_seconds
        self._url = base_url
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(30.0, read=READ_TIMEOUT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=False,  # a proxy of the environment must not stand between us and our own server
        )

    async def __aenter__(self) -> "Client":
        await self._http.__aenter__()
        models = (await self._ask("GET", "/v1/models"))["data"]
        served = {model["id"]: model for model in models}
        if self.model not in served:
            raise StepFailed(f"{self._url}: serves {', '.join(served) or 'nothing'}, expected {self.model}")
        self.max_model_len = served[self.model].get("max_model_len")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def complete(
        self, prompt_ids: list[int], sampling: Sampling, seed: int, stop: list[str], stop_token_ids: list[int]
    ) -> Completion:
        """The continuation of the prompt, up to a stop text or token or `sampling.max_tokens`."""
        body = {
            "model": self.model,
            "prompt": prompt_ids,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "stop": stop,
            "stop_token_ids": stop_token_ids,
            **({"seed": seed} if sampling.temperature > 0 else {}),
        }
        answer = await self._ask("POST", "/v1/completions", body)
        choice, usage = answer["choices"][0], answer["usage"]
        return Completion(
            choice["text"], choice["finish_reason"] or "unknown", usage["prompt_tokens"], usage["completion_tokens"]
        )

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer; asked again with growing pauses while the server fails in a way that may pass."""
        failing_since, pause = None, 0.25
        while True:
            try:
                response = await self._http.request(method, path, json=body)
                if not _may_pass(response.status_code):
                    return self._checked(response)
                problem = f"HTTP {response.status_code}: {response.text[:300]}"
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since + pause > self._patience_seconds:
                raise StepFailed(
                    f"{self._url}: the model server stopped answering ({problem}); its log says why; "
                    "a rerun continues with the answers that are missing"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, 5.0)

    def _checked(self, response: httpx.Response) -> Any:
        if response.is_success:
            return response.json()
        raise StepFailed(
            f"{self._url}: the model server refused a request: HTTP {response.status_code}: {response.text[:500]}"
        )


def _may_pass(status_code: int) -> bool:
    return status_code == 429 or status_code >= 500
