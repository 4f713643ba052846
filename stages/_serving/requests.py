"""What is asked of a model, and what came back: the rows of requests.jsonl and answers.jsonl."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.strict import StrictModel

TOO_LONG = "prompt_too_long"
"""The finish reason of a request that was never sent: its prompt fills the model's context."""
PROMPT_CUT = "prompt_cut"
"""That of a log-likelihood whose prompt lost its beginning to fit into the context, as lm-eval's models cut it."""
REFUSED = ("content_filter", "refusal")
"""Those of an endpoint that declined to answer."""


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
    """Each prompt and sample draws with its own seed derived from this one."""


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
    continuation: str | None = None
    """Ask how likely the model thinks this text after the prompt, instead of an answer."""
    rolling: bool = False
    """The continuation is a whole document, taken in windows of the model's context."""
    sampling: Sampling
    num_samples: int = Field(1, ge=1)
    doc: dict[str, Any] = {}
    """What scoring needs to know about the question."""

    @model_validator(mode="after")
    def _rolling_needs_a_document(self) -> Self:
        if self.rolling and self.continuation is None:
            raise ValueError("rolling: found without a continuation, expected the document to be scored")
        return self


class Answer(StrictModel):
    """One turn's answer, or the log-likelihood of a continuation.

    `finish_reason`: stop, length (truncated by max_tokens), prompt_too_long (never sent), prompt_cut, scored (a
    log-likelihood), or one of REFUSED.
    """

    id: str
    sample: int
    turn: int
    text: str
    finish_reason: str
    num_prompt_tokens: int | None
    """None where an endpoint does not tell."""
    num_tokens: int
    loglikelihood: float | None = None
    """In nats, summed over the continuation's tokens."""
    is_greedy: bool | None = None
    """Whether greedy decoding would have written the continuation."""
    prompt_sha256: str
    """Over the prompt's token ids and everything else that was asked: an answer is never used for another prompt."""

    @property
    def key(self) -> tuple[str, int, int]:
        return self.id, self.sample, self.turn
