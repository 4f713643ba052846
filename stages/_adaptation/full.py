"""Full fine-tuning between the stages: a start without factors, and trained tensors in the place of updates.

The start needs no torch, and so imports none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.errors import StepFailed
from pipeline.stage import Workspace
from stages._adaptation.files import write_method, write_report
from stages._weights.index import stored_tensors
from stages.adapters.base import MethodConfig

if TYPE_CHECKING:
    import torch


class Trained(NamedTuple):
    """What becomes of one tensor of any shape: it was trained itself."""

    file: Path
    name: str

    def applied(self, weight: torch.Tensor) -> torch.Tensor:
        """The trained tensor, in the dtype of `weight`."""
        from stages._weights.reading import read_tensor

        return read_tensor(self.file, self.name).to(weight.dtype)

    def outputs(self, weight_OI: torch.Tensor, x_IP: torch.Tensor) -> torch.Tensor:
        """What it makes of vectors, as a matrix [O, I]; a vector has one column."""
        return self.applied(weight_OI).reshape(len(weight_OI), -1) @ x_IP


def write_start(method: MethodConfig, num_parameters: int, out: Workspace) -> dict[str, Any]:
    """Write adapter.json and init_report.json, for training that starts at the base as it is; the step's metrics."""
    write_method(method, out.path)
    summary = {
        "method": method.method,
        "num_matrices": 0,
        "num_parameters": 0,
        "trainable_parameters": num_parameters,
        "subtracts_start": method.subtracts_start,
    }
    write_report(summary, out.path)
    return summary


def read_trained(model_dir: Path, trained_dir: Path) -> dict[str, Trained]:
    """Tensor name less ".weight" -> the trained tensor. Raises StepFailed for a name or a shape that is not the base's.

    What the base stores beside its parameters (buffers) is not trained and not among them.
    """
    base, trained = stored_tensors(model_dir), stored_tensors(trained_dir)
    wrong = sorted(name for name in trained if name not in base or base[name].shape != trained[name].shape)
    if wrong:
        raise StepFailed(
            f"merge: {trained_dir} has {', '.join(wrong[:5])}, which {model_dir} has not in this shape; "
            f"they are not of one training"
        )
    return {name.removesuffix(".weight"): Trained(tensor.file, name) for name, tensor in trained.items()}
