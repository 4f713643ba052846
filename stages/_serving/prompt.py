"""Exactly what a model is given, and the identity of what is asked with it."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.fingerprint import canonical_json
from stages._serving.requests import Message, Sampling


@dataclass(frozen=True)
class Prompt:
    """Token ids where we hold the model's tokenizer; for an endpoint, a conversation or text. One of the three is set.

    The last `num_scored` tokens, or the text `scored`, are no question but the text whose log-likelihood is asked.
    """

    token_ids: tuple[int, ...] | None = None
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    num_scored: int | None = None
    scored: str | None = None
    stop: tuple[str, ...] = ()
    """Texts that end an answer and are not part of it."""
    stop_token_ids: tuple[int, ...] = ()
    was_cut: bool = False
    """Its beginning was left out so that it fits into the model's context."""

    @property
    def asks_for_likelihood(self) -> bool:
        return self.num_scored is not None or self.scored is not None

    @cached_property
    def sha256(self) -> str:
        """64 hex digits over everything here."""
        asked: dict[str, Any] = {
            "prompt": self.token_ids or self.text or [each.model_dump() for each in self.messages or ()],
            "scored": self.scored if self.num_scored is None else self.num_scored,
            "stop": self.stop,
            "stop_ids": self.stop_token_ids,
        }
        return _sha256(asked)

    def answer_key(self, sampling: Sampling, sample: int, setting: str) -> str:
        """64 hex digits: equal exactly when the same is asked in the same way for the same sample.

        What has no influence is not part of it: sampling, where nothing is drawn. `setting` tells how the model runs.
        """
        if self.asks_for_likelihood:
            return _sha256({"prompt": self.sha256, "setting": setting})
        drawn = sampling.temperature > 0
        how = {
            "max_tokens": sampling.max_tokens,
            **({"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed} if drawn else {}),
        }
        return _sha256({"prompt": self.sha256, "setting": setting, "sampling": how, "sample": sample})

    def seed(self, sampling: Sampling, sample: int) -> int:
        """A 31-bit seed of its own for each prompt and sample, the same in every run."""
        digest = hashlib.sha256(f"{sampling.seed}/{self.sha256}/{sample}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
