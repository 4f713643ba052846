"""Is what a server serves the model that was merged? What merge saw it say after a few texts is asked of the server.

Greedy tokens: each is asked after the recorded ones, so that a difference at one place is none at all later ones, and
only those count whose logit is so far above the second largest that rounding does not explain another choice. And their
log-probabilities, which tell models apart that choose alike, such as a base and what was trained from it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.artifact import Artifact
from pipeline.errors import StepFailed
from pipeline.strict import StrictModel
from stages._serving.engine import Completion, Engine
from stages._serving.prompt import Prompt
from stages._serving.settings import Numerics
from stages._weights.folder import PROBES_FILE


class Limits(NamedTuple):
    """What rounding explains where a model is served in one dtype."""

    clear_gap: float
    """Between the two largest logits: below it another choice is explained."""
    min_agreement: float
    """Of clear greedy tokens."""
    max_logprob_error: float
    """In nats a token."""


LIMITS = {
    "float32": Limits(0.01, 1.0, 0.01),
    "float16": Limits(0.25, 0.9, 0.1),
    "bfloat16": Limits(1.0, 0.9, 0.3),
}


class Probe(StrictModel):
    """What the merged model says after a prompt, computed in float32."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of each token, in nats."""
    gaps: tuple[float, ...]
    """Of each token's logit above the second largest; 0 where it is not the largest."""

    def clear_spans(self, min_gap: float, num_fitting: int) -> Iterator[tuple[int, int]]:
        """(begin, end) of all tokens in a row that are clear, among the first so many."""
        begin: int | None = None
        for place in range(num_fitting + 1):
            clear = place < num_fitting and self.gaps[place] > min_gap
            if clear and begin is None:
                begin = place
            elif not clear and begin is not None:
                yield begin, place
                begin = None

    def num_fitting(self, max_length: int | None) -> int:
        """Tokens that can be asked in a context of that length, which has to leave room for a generated one."""
        room = len(self.token_ids) if max_length is None else max_length - 1 - len(self.prompt_ids)
        return max(0, min(room, len(self.token_ids)))


def write(probes: Sequence[Probe], model_dir: Path) -> None:
    """Leave them beside the weights."""
    (model_dir / PROBES_FILE).write_text(json.dumps([probe.model_dump(mode="json") for probe in probes]) + "\n")


def read(model: Artifact) -> list[Probe]:
    """Those of a merged model; none of any other."""
    file = model / PROBES_FILE
    return [Probe.model_validate_json(json.dumps(row)) for row in json.loads(file.read_text())] if file.exists() else []


async def require_agreement(engine: Engine, model: Artifact, numerics: Numerics) -> Mapping[str, Any]:
    """The metrics of the comparison; nothing for a model without probes. Raises StepFailed for another model."""
    probes = read(model)
    dtype = _dtype(model, numerics) if probes else "float32"
    limits = LIMITS[dtype]
    num_tokens = num_clear = num_equal = 0
    error = 0.0
    for probe in probes:
        if not (fitting := probe.num_fitting(engine.max_model_len)):
            continue
        said = await _asked(engine, probe, 0, fitting)
        error += abs((said.loglikelihood or 0.0) - sum(probe.logprobs[:fitting]))
        num_tokens += fitting
        for begin, end in probe.clear_spans(limits.clear_gap, fitting):
            num_clear += end - begin
            num_equal += end - begin if said.is_greedy else await _num_equal(engine, probe, begin, end)
    if not num_tokens:
        return {}
    agreement = num_equal / num_clear if num_clear else 1.0
    if not (agreement >= limits.min_agreement and error / num_tokens <= limits.max_logprob_error):
        raise StepFailed(
            f"the server does not serve the model that was merged: it chose {num_equal} of {num_clear} clear tokens as "
            f"merge saw it, expected at least {limits.min_agreement:.0%}, with log-probabilities that differ by "
            f"{error / num_tokens:.3g} a token, expected at most {limits.max_logprob_error:g} in {dtype}"
        )
    return {
        "served_token_agreement": agreement,
        "num_served_tokens_compared": num_clear,
        "served_logprob_error": error / num_tokens,
    }


async def _num_equal(engine: Engine, probe: Probe, begin: int, end: int) -> int:
    """Asked at once, and one by one only where that disagrees."""
    if (await _asked(engine, probe, begin, end)).is_greedy:
        return end - begin
    return sum([bool((await _asked(engine, probe, place, place + 1)).is_greedy) for place in range(begin, end)])


async def _asked(engine: Engine, probe: Probe, begin: int, end: int) -> Completion:
    ids = (*probe.prompt_ids, *probe.token_ids[:end])
    return await engine.loglikelihood(Prompt(ids, num_scored=end - begin))


def _dtype(model: Artifact, numerics: Numerics) -> str:
    """In which the server computes; `auto` is that of the weights."""
    return numerics.dtype if numerics.dtype != "auto" else json.loads((model / "config.json").read_text())["dtype"]
