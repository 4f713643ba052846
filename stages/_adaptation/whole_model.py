"""What comparing answers takes: a whole model in memory. Standard library only, for the preflight."""

from typing import Literal

Verify = Literal["answers", "tensors"]
"""How far a merge is verified."""
PARAMETER_BYTES = 4.4
"""To load a model in float32 on the CPU, an adapter with it."""


def memory_problem(num_parameters: int, memory_bytes: int) -> str | None:
    """Why a merge cannot compare answers."""
    needed = PARAMETER_BYTES * num_parameters
    if needed <= memory_bytes:
        return None
    return (
        f"merge.verify: found answers, which loads the model in float32: about {needed / 2**30:.1f} GiB, found "
        f"{memory_bytes / 2**30:.1f} GiB; with `tensors` every tensor is still checked, but no answer is compared"
    )
