"""Answers to requests, for the tests of scorers."""

from collections.abc import Iterable, Sequence

from stages._serving.requests import Answer, Request
from stages.benchmarks.base import Answered


def answered(
    requests: Sequence[Request], texts: Iterable[str | Sequence[str]], finish_reason: str = "stop"
) -> Answered:
    """Each request answered with its text, or with the texts of its samples."""
    samples = [[each] if isinstance(each, str) else each for each in texts]
    answers = [
        Answer(
            id=request.id,
            sample=sample,
            turn=0,
            text=text,
            finish_reason=finish_reason,
            num_prompt_tokens=1,
            num_tokens=1,
            prompt_sha256="",
        )
        for request, row in zip(requests, samples, strict=True)
        for sample, text in enumerate(row)
    ]
    return Answered(requests, {answer.key: answer for answer in answers}, None)
