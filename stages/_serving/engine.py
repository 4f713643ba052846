"""What can answer prompts: a vLLM server, an endpoint somewhere, transformers in this process."""

from dataclasses import dataclass
from typing import Protocol, Self

from stages._serving.prompt import Prompt
from stages._serving.requests import Sampling


@dataclass(frozen=True)
class Completion:
    """What a model made of one prompt."""

    text: str
    finish_reason: str
    num_prompt_tokens: int | None
    num_tokens: int
    loglikelihood: float | None = None
    is_greedy: bool | None = None


class Engine(Protocol):
    """Answers prompts of one model. Entering it (`async with`) makes sure that it is that model."""

    max_model_len: int | None
    """Tokens of prompt and answer together; None where nobody tells."""
    num_in_flight: int
    """Prompts worth sending at once."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def complete(self, prompt: Prompt, sampling: Sampling, seed: int) -> Completion:
        """The continuation of the prompt, up to a stop text or token or `sampling.max_tokens`."""

    async def loglikelihood(self, prompt: Prompt) -> Completion:
        """How likely the prompt's scored part is after the rest: the sum over its tokens, in nats."""
