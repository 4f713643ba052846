"""What about serving can change an answer, apart from what only changes its speed."""

from typing import Literal

from pydantic import Field

from pipeline.fingerprint import canonical_json
from pipeline.strict import StrictModel

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
EngineName = Literal["vllm", "transformers"]


class Numerics(StrictModel):
    """Part of the identity of answers; the server's other settings are not."""

    engine: EngineName = "vllm"
    dtype: Dtype = "auto"
    """Of weights and activations; `auto` is the dtype the weights are stored in."""
    max_model_len: int = Field(2048, ge=16)
    """Tokens of prompt and answer together."""
    extra_arguments: tuple[str, ...] = Field((), strict=False)
    """Further words for the server's command line."""

    def of_one_answer(self) -> str:
        """What identifies a stored answer. The context's length is in the answer's own limit already."""
        identity = self.canonical()
        identity.pop("max_model_len", None)
        return canonical_json(identity)
