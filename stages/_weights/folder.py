"""The small files of a model folder: configuration, tokenizer, chat template."""

import json
import shutil
from pathlib import Path

from pipeline.artifact import MANIFEST
from stages._weights.index import INDEX_FILE
from stages._weights.sources import SMALL_FILES

PROBES_FILE = "probes.json"
"""What a merged model said when it was verified (`stages._serving.probes`): true of its own weights alone."""
_LEFT_OUT = {INDEX_FILE, MANIFEST, PROBES_FILE}


def copy_small_files(source: Path, target: Path) -> None:
    """Copy everything that is not weights."""
    for pattern in SMALL_FILES:
        for file in source.glob(pattern):
            if file.name not in _LEFT_OUT:
                shutil.copyfile(file, target / file.name)


def state_dtype(model_dir: Path, dtype: str) -> None:
    """Set the dtype that config.json states, which loaders go by."""
    file = model_dir / "config.json"
    values = json.loads(file.read_text())
    values.pop("torch_dtype", None)  # the name that older versions wrote
    file.write_text(json.dumps({**values, "dtype": dtype}, indent=2, sort_keys=True) + "\n")
