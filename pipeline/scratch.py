"""A folder on a node's own disk for what a run does not have to keep: temporary files and caches of compilers.

PIPELINE_SCRATCH names where; a cluster's profile sets it (`scratch`). Checkpoints and all unfinished work stay in the
store: they must survive the node. Without it nothing changes: TMPDIR and each program's own cache.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.lock import Lock

VARIABLE = "PIPELINE_SCRATCH"
CACHES = {
    "HF_DATASETS_CACHE": "datasets",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "extensions",
    "TRITON_CACHE_DIR": "triton",
    "VLLM_CACHE_ROOT": "vllm",
}
"""Variable of a program -> folder. Else they are below the home folder, which on clusters is often a slow network file
system without file locks. One that is set already stays as it is."""
_PREFIX = "nlora-pipeline-"


def problems() -> list[str]:
    """Why the named folder cannot be used."""
    named = os.environ.get(VARIABLE)
    if named is None or (named and Path(named).is_dir() and os.access(named, os.W_OK | os.X_OK)):
        return []
    found = "cannot be written" if named and Path(named).is_dir() else "is no folder"
    return [f"scratch {named!r}: {found} on {os.uname().nodename}; name another in {VARIABLE} (a profile's `scratch`)"]


@contextmanager
def own_scratch() -> Iterator[None]:
    """Processes that are started meanwhile have their temporary files and caches in one folder of ours, which is then
    removed; so is what runs that were killed have left.
    """
    named = os.environ.get(VARIABLE)
    if named is None:
        yield
        return
    root = Path(named).absolute()
    for left in root.glob(f"{_PREFIX}*"):
        if (left / "lock.1").exists() and not Lock(left / "lock").is_held():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    before = dict(os.environ)
    try:
        with Lock(folder / "lock"):
            os.environ.update(_variables(folder))
            yield
    finally:
        for name in (*CACHES, "TMPDIR"):
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})
        shutil.rmtree(folder, ignore_errors=True)


def _variables(folder: Path) -> dict[str, str]:
    (folder / "tmp").mkdir()
    caches = {name: str(folder / below) for name, below in CACHES.items() if name not in os.environ}
    return {**caches, "TMPDIR": str(folder / "tmp")}
