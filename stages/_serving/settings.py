"""What about serving can change an answer, apart from what only changes its speed."""

from typing import Literal

from pydantic import Field

from pipeline.strict import StrictModel

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Numerics(StrictModel):
    """Part of the identity of answers; the server's other settings are not."""

    dtype: Dtype = "auto"
    """Of weights and activations; `auto` is the dtype the weights are stored in."""
    max_model_len: int = Field(2048, ge=16)
    """Tokens of prompt and answer together."""
