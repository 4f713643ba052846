"""What is asked of a model, and what came back: the rows of requests.jsonl and answers.jsonl."""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from pipeline.fingerprint import canonical_json
from pipeline.strict import StrictModel

TOO_LONG = "prompt_too_long"
"""The finish reason of a request that was never sent: its prompt fills the model's context."""


class Message(StrictModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(StrictModel):
    """How an answer is drawn. Every parameter is sent, so that no default of a server or a model applies."""

    max_tokens: int = Field(ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""
    seed: int = 0
    """Each (request, sample, turn) draws with its own seed derived from this one."""


class Request(StrictModel):
    """One conversation to be held with the model: `turns` are asked in order, each with the answers before it."""

    id: str
    turns: tuple[str, ...] = Field(min_length=1)
    history: tuple[Message, ...] = ()
    """Messages before the first turn: a system message, worked examples."""
    raw: bool = False
    """The (only) turn is text to be continued as it stands, without a template."""
    answer_start: str = ""
    """Text the answer is made to begin with; it is part of the prompt."""
    sampling: Sampling
    num_samples: int = Field(1, ge=1)
    doc: dict[str, Any] = {}
    """What scoring needs to know about the question."""


class Answer(StrictModel):
    """One turn's answer. `finish_reason`: stop, length (truncated by max_tokens) or prompt_too_long (never sent)."""

    id: str
    sample: int
    turn: int
    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_tokens: int
    prompt_sha256: str
    """Over the prompt's token ids and everything else that was asked: an answer is never used for another prompt."""

    @property
    def key(self) -> tuple[str, int, int]:
        return self.id, self.sample, self.turn


def prompt_sha256(prompt_ids: list[int], sampling: Sampling, stop: Sequence[str], stop_ids: Sequence[int]) -> str:
    """64 hex digits."""
    asked = {"prompt": prompt_ids, "sampling": sampling.model_dump(mode="json"), "stop": stop, "stop_ids": stop_ids}
    return hashlib.sha256(canonical_json(asked).encode()).hexdigest()


def answer_seed(seed: int, request_id: str, sample: int, turn: int) -> int:
    """A 31-bit seed of its own for each answer, the same in every run and for every model."""
    digest = hashlib.sha256(f"{seed}/{request_id}/{sample}/{turn}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
