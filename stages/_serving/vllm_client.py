"""The vLLM server that the pipeline started, given exact token ids."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from pipeline.errors import StepFailed
from stages._serving.engine import Completion
from stages._serving.http import JsonClient
from stages._serving.prompt import Prompt
from stages._serving.requests import Sampling

PATIENCE_SECONDS = 30.0
"""How long a failing server is asked again before the step gives up."""
KEY_VARIABLE = "PIPELINE_SERVER_KEY"
"""Environment variable with the key that the engine gave the server it started."""
NO_DEFAULTS = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
}
"""Sent with every request, so that no default of the server or of the model's generation_config.json applies."""


STEP_COST = 32
"""About what a generated token costs, in tokens of a prompt read anew: a request of its own, the part not cached."""


class Scored(NamedTuple):
    """One token of a text whose log-likelihood is asked."""

    logprob: float
    is_likeliest: bool


class VllmClient:
    """An `Engine`. Raises StepFailed when the server is gone, serves another model, or refuses a request."""

    num_in_flight = 128
    """The server batches as many as it can and queues the rest."""

    def __init__(self, base_url: str, model: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self.model = model
        self.max_model_len: int | None = None
        self._http = JsonClient(base_url, os.environ.get(KEY_VARIABLE), patience_seconds, trust_env=False)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        models = (await self._http.ask("GET", "/v1/models"))["data"]
        served = {model["id"]: model for model in models}
        if self.model not in served:
            raise StepFailed(f"{self._http.url}: serves {', '.join(served) or 'nothing'}, expected {self.model}")
        self.max_model_len = served[self.model].get("max_model_len")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.__aexit__()

    async def complete(self, prompt: Prompt, sampling: Sampling, seed: int) -> Completion:
        drawn = {"seed": seed} if sampling.temperature > 0 else {}
        body = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop": list(prompt.stop),
            "stop_token_ids": list(prompt.stop_token_ids),
            **NO_DEFAULTS,
            **drawn,
        }
        choice, usage = await self._post(prompt.token_ids or (), body)
        return Completion(
            choice["text"], choice["finish_reason"] or "unknown", usage["prompt_tokens"], usage["completion_tokens"]
        )

    async def loglikelihood(self, prompt: Prompt) -> Completion:
        """In one pass over the prompt, or token by token after a context that the server has in its cache."""
        ids, num_scored = prompt.token_ids or (), prompt.num_scored or 0
        if not num_scored:
            return Completion("", "scored", len(ids), 0, 0.0, True)
        by_step = num_scored * STEP_COST <= len(ids) - num_scored
        scored, num_read = await (self._by_step(ids, num_scored) if by_step else self._in_one_pass(ids, num_scored))
        return Completion(
            text="",
            finish_reason="scored",
            num_prompt_tokens=num_read,
            num_tokens=0,
            loglikelihood=sum(each.logprob for each in scored),
            is_greedy=all(each.is_likeliest for each in scored),
        )

    async def _in_one_pass(self, ids: tuple[int, ...], num_scored: int) -> tuple[list[Scored], int]:
        """From the log-probabilities of the prompt's own tokens; the one token generated beside them is dropped.

        For these vLLM reads the whole prompt anew, whatever it has in its cache.
        """
        choice, usage = await self._post(ids, {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0})
        rows = [
            position[str(token)]
            for token, position in zip(ids[-num_scored:], choice["prompt_logprobs"][-num_scored:], strict=True)
        ]
        return [Scored(row["logprob"], row["rank"] == 1) for row in rows], usage["prompt_tokens"]

    async def _by_step(self, ids: tuple[int, ...], num_scored: int) -> tuple[list[Scored], int]:
        """Each scored token generated after those before it: all choices of a question share its cached context."""
        ends = range(len(ids) - num_scored, len(ids))
        found = await asyncio.gather(*(self._next(ids[:end], ids[end]) for end in ends))
        return [scored for scored, _ in found], found[0][1] + num_scored

    async def _next(self, ids: tuple[int, ...], token: int) -> tuple[Scored, int]:
        """How likely `token` comes next: the only one allowed, beside it the likeliest of all."""
        body = {
            "max_tokens": 1,
            "temperature": 0.0,
            "allowed_token_ids": [token],
            "logprobs": 1,
            "return_tokens_as_token_ids": True,
        }
        choice, usage = await self._post(ids, body)
        (found,) = choice["logprobs"]["top_logprobs"]
        logprob = found[f"token_id:{token}"]
        return Scored(logprob, logprob >= max(found.values())), usage["prompt_tokens"]

    async def _post(self, ids: Sequence[int], body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
        """(the choice, the usage)"""
        asked = {"model": self.model, "prompt": list(ids), **body}
        answer = await self._http.ask("POST", "/v1/completions", asked)
        return answer["choices"][0], answer["usage"]
