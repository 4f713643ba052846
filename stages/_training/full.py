"""Full fine-tuning in the train stage: every parameter requires a gradient, and every one is written at the end."""

from pathlib import Path
from typing import Any

import torch
from deepspeed import comm

from pipeline.errors import StepFailed
from stages._training import whole
from stages._weights.folder import copy_small_files, state_dtype
from stages._weights.index import stored_tensors
from stages._weights.writing import ShardWriter


def trainable(model: Any, model_dir: Path) -> Any:
    """The model with all parameters to be trained. Raises StepFailed for one that its folder stores in another form."""
    homeless = {parameter: name for name, parameter in model.named_parameters()}
    for parameter in _stored_parameters(model, model_dir).values():
        homeless.pop(parameter, None)
    if homeless:
        raise StepFailed(
            f"train: the model builds {', '.join(list(homeless.values())[:5])} from tensors of other names in "
            f"{model_dir}; full fine-tuning writes what it trained under the same names: use an adapter method"
        )
    return model.requires_grad_(True)


def save_model(model: Any, model_dir: Path, out_dir: Path) -> None:
    """Write the trained parameters in float32 as a model folder like the base's: what it stores once, is stored once.

    One parameter at a time is whole. Every process must call it; rank 0 writes.
    """
    writer = ShardWriter(out_dir) if comm.get_rank() == 0 else None
    for name, parameter in _stored_parameters(model, model_dir).items():
        value = whole.value(parameter)
        if writer is not None:
            writer.add(name, value.cpu())
    if writer is not None:
        writer.close()
        copy_small_files(model_dir, out_dir)
        state_dtype(out_dir, "float32")
    comm.barrier()


def _stored_parameters(model: Any, model_dir: Path) -> dict[str, torch.nn.Parameter]:
    """Name in the folder -> parameter; tied ones as often as the folder has them."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {name: parameters[name] for name in stored_tensors(model_dir) if name in parameters}
