"""What steps take beside others (`needs` of a stage): rough upper estimates, in bytes. Standard library only."""

from pipeline import machine
from pipeline.artifact import Artifact
from pipeline.stage import Needs, Resources

PYTHON_BYTES = 1_000_000_000
"""An interpreter with PyTorch, transformers or datasets, and what streams through it."""


def streaming() -> Needs:
    """Of a step that holds little of what it reads, and whose results do not depend on the number of cores."""
    return Needs(memory_bytes=PYTHON_BYTES)


def arithmetic(resources: Resources, model: Artifact, num_copies: float) -> Needs:
    """Of a step with so much of the model in memory, in float32, that multiplies matrices with all threads it may use:
    as their number may show in the last digits, it does not run with fewer beside others.
    """
    num_cores = resources.num_threads or machine.cpu_count()
    return Needs(num_cores=num_cores, memory_bytes=model_bytes(model, num_copies))


def model_bytes(model: Artifact, num_copies: float) -> int:
    """Of so many copies of a prepared model in float32, and an interpreter."""
    return PYTHON_BYTES + int(4 * num_copies * model.metrics()["num_parameters"])
