"""Turn rows into token ids with a prompt template. Reads a model's tokenizer and prepared data.

Writes train.safetensors (and validation.safetensors), template.json and examples.txt. A token file holds
`input_ids` int32 [total_tokens], `loss_mask` uint8 [total_tokens] (1 where a token is to be learnt) and
`offsets` int64 [num_samples + 1] (sample i is input_ids[offsets[i] : offsets[i + 1]]). Nothing in it depends on the
adapter, the seed or how training goes.
"""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.artifact import Artifact
from pipeline.stage import Needs, Resources, Workspace
from pipeline.strict import StrictModel
from stages import _needs
from stages._data.formats import Format
from stages._data.prompts import Prompt
from stages._data.turns import Learn

VERSION = 1


class Config(StrictModel):
    """What the model is shown, what it learns, and how long a sample may be."""

    format: Format
    template: Prompt
    max_length: int = Field(gt=1)
    """Tokens of a sample; longer ones lose their end, and are dropped if that would take all that is to be learnt."""
    learn: Learn = "response"
    """`response`: the last answer. `assistant_turns`: every answer of a conversation. `all`: the prompt as well. What
    ends an answer is learnt with it. A plain text (format `text`) is learnt from its start to the end-of-text token."""
    on_empty: Literal["refuse", "drop"] = "refuse"
    """What to do with rows whose prompt or response is empty."""
    drop_duplicates: bool = False
    """Whether rows whose text (prompt and response) came before are left out, character for character; validation rows
    also where they are training rows."""

    @model_validator(mode="after")
    def _has_turns(self) -> Self:
        if self.format.kind == "text" and self.learn == "assistant_turns":
            raise ValueError("learn: found assistant_turns with format text, which has no turns; leave learn out")
        return self


class Inputs(StrictModel):
    """A model (its tokenizer) and prepared data."""

    model: Artifact
    data: Artifact


def preflight(config: Config, resources: Resources, known: dict[str, Artifact]) -> list[str]:
    """Whether the template is valid Jinja and, where the data is there already, has the named columns."""
    from stages._data import tokenizing

    return tokenizing.problems(config, known.get("data"))


def needs(config: Config, resources: Resources, known: dict[str, Artifact]) -> Needs:
    """Rows are streamed."""
    return _needs.streaming()


def run(config: Config, inputs: Inputs, out: Workspace, resources: Resources) -> dict[str, Any]:
    """Tokenise every split but test. Raises UserError for rows without text and for a template that loses text."""
    from stages._data import tokenizing

    return tokenizing.tokenize(config, inputs, out)
