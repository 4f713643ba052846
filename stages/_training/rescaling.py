"""A checkpoint of another number of processes, by way of DeepSpeed's universal form: states that are not divided.

https://www.deepspeed.ai/tutorials/universal-checkpointing/
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from deepspeed import comm
from deepspeed.checkpoint import ds_to_universal

UNIVERSAL_DIR = "universal.partial"
"""Ends like unfinished checkpoints, and is removed with them."""


def load(engine: Any, folder: Path, tag: str) -> None:
    """Load weights and optimizer states of `folder / tag`. Every process must call it; rank 0 converts.

    States of ZeRO stage 0 are whole as they are.
    """
    if engine.zero_optimization_stage() == 0:
        engine.load_checkpoint(str(folder), tag=tag, load_module_strict=False)
        return
    side = folder.with_name(UNIVERSAL_DIR)
    if comm.get_rank() == 0:
        shutil.rmtree(side, ignore_errors=True)
        ds_to_universal.main(_conversion(folder / tag, side / tag))
    comm.barrier()
    engine._config.load_universal_checkpoint = True  # of a whole run; here of one load
    engine.load_checkpoint(str(side), tag=tag, load_module_strict=False)
    engine._config.load_universal_checkpoint = False
    comm.barrier()
    if comm.get_rank() == 0:
        shutil.rmtree(side)


def _conversion(source: Path, target: Path) -> argparse.Namespace:
    """The arguments of DeepSpeed's command."""
    return argparse.Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
