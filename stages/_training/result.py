"""What the workers leave for the launcher when they are done, beside the weights."""

import json
import shutil
from typing import Any

from deepspeed import comm

from stages._training.checkpoints import Position
from stages._training.records import Records
from stages._training.spec import RESULT_FILE, TrainSpec


def write(
    spec: TrainSpec, model: Any, position: Position, records: Records, validation_loss: float | None, memory_bytes: int
) -> None:
    """The step's metrics, and the template that the tokens were made with. Only the first process calls it."""
    shutil.copyfile(spec.tokens_dir / "template.json", spec.out / "template.json")
    losses = records.losses()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    result = {
        "num_steps": position.step,
        "train_loss_first": losses[0],
        "train_loss_last": losses[-1],
        "validation_loss_start": position.validation_loss_start,
        "validation_loss_end": validation_loss,
        "tokens_per_second": position.num_tokens / position.seconds,
        "num_tokens": position.num_tokens,
        "num_processes": comm.get_world_size(),
        "peak_memory_bytes": memory_bytes,
        "trainable_parameters": sum(getattr(each, "ds_numel", each.numel()) for each in trained),
    }
    if position.best_step is not None:
        result |= {"best_step": position.best_step, "best_validation_loss": position.best_validation_loss}
    temporary = spec.out / f"{RESULT_FILE}.partial"
    temporary.write_text(json.dumps(result))
    temporary.replace(spec.out / RESULT_FILE)
