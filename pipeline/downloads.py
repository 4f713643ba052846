"""What a step reads from the network, as its stage's `downloads` names it, and where it lies once it was fetched.

    DIR/hub/models--ORG--NAME/snapshots/COMMIT/...     the hub's own cache layout, also datasets--ORG--NAME
    DIR/models/ORG/NAME, DIR/datasets/ORG/NAME         the same by hand: a git clone, or what `hf download` wrote
    DIR/pinned/SHA256                                  single files of the web, by content
    DIR/nltk_data                                      by hand: what some tasks of lm-eval load through NLTK
    DIR/fetched.json                                   what `fetch` wrote, with hashes

The environment variable PIPELINE_FETCHED names DIR for a run, which then asks nobody else. It is in no fingerprint.
"""

import os
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints

from pipeline.errors import UserError
from pipeline.strict import StrictModel

VARIABLE = "PIPELINE_FETCHED"
HUB, PINNED, NLTK, INDEX = "hub", "pinned", "nltk_data", "fetched.json"
COMMIT = re.compile(r"[0-9a-f]{40}")


class HubFiles(StrictModel):
    """Files of one repository of the Hugging Face hub."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str = "main"
    """A commit, or a branch for what a library loads at whatever commit it finds: the one that was fetched counts."""
    patterns: tuple[str, ...] = ("*",)
    """Shell patterns of the files that are wanted; * also stands for slashes."""
    without: tuple[str, ...] = ()

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit."""
        return bool(COMMIT.fullmatch(self.revision))

    @property
    def folder_name(self) -> str:
        """In the hub's cache."""
        return f"{self.kind}s--{self.name.replace('/', '--')}"

    def wanted(self, paths: Iterable[str]) -> list[str]:
        """Those of the paths that the patterns mean."""
        return [path for path in paths if _matches(path, self.patterns) and not _matches(path, self.without)]

    def __str__(self) -> str:
        what = "data set" if self.kind == "dataset" else self.kind
        return f"{what} {self.name}@{self.revision[:12]}"


class WebFile(StrictModel):
    """One file at an address, known by its content."""

    url: str
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

    def __str__(self) -> str:
        return self.url


Download = HubFiles | WebFile


def fetched_dir() -> Path | None:
    """The folder that stands for the network, if a run has one."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else None


def require_fetched() -> None:
    """Raises UserError when the folder that stands for the network is none."""
    folder = fetched_dir()
    if folder and not folder.is_dir():
        raise UserError(f"{VARIABLE}: found no folder at {folder}, expected what `python -m pipeline fetch` made")


def use_fetched(folder: Path) -> None:
    """Let this process and those it starts read from the folder, and from nowhere else."""
    os.environ[VARIABLE] = str(folder.expanduser().absolute())


def environment() -> dict[str, str]:
    """How other libraries are told of the fetched folder, and that there is no network; nothing without one."""
    folder = fetched_dir()
    if folder is None:
        return {}
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"), "1")
    usual = {"NLTK_DATA": str(folder / NLTK), "WANDB_MODE": "offline"}  # unless the user says otherwise
    chosen = {name: os.environ.get(name, value) for name, value in usual.items()}
    return {VARIABLE: str(folder), "HF_HUB_CACHE": str(folder / HUB), **offline, **chosen}


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)
