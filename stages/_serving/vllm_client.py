"""The vLLM server that the pipeline started, given exact token ids."""

import os
from typing import Any, Self

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
        choice, usage = await self._post(prompt, body)
        return Completion(
            choice["text"], choice["finish_reason"] or "unknown", usage["prompt_tokens"], usage["completion_tokens"]
        )

    async def loglikelihood(self, prompt: Prompt) -> Completion:
        """From the log-probabilities of the prompt's own tokens; the one token generated beside them is dropped."""
        num_scored = prompt.num_scored or 0
        if not num_scored:
            return Completion("", "scored", len(prompt.token_ids or ()), 0, 0.0, True)
        choice, usage = await self._post(prompt, {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0})
        ids = prompt.token_ids or ()
        scored = [
            position[str(token)]
            for token, position in zip(ids[-num_scored:], choice["prompt_logprobs"][-num_scored:], strict=True)
        ]
        return Completion(
            text="",
            finish_reason="scored",
            num_prompt_tokens=usage["prompt_tokens"],
            num_tokens=0,
            loglikelihood=sum(each["logprob"] for each in scored),
            is_greedy=all(each["rank"] == 1 for each in scored),
        )

    async def _post(self, prompt: Prompt, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
        """(the choice, the usage)"""
        asked = {"model": self.model, "prompt": list(prompt.token_ids or ()), **body}
        answer = await self._http.ask("POST", "/v1/completions", asked)
        return answer["choices"][0], answer["usage"]
