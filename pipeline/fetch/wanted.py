"""What the steps of a plan read from the network, each thing once."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.downloads import Download
from pipeline.plan import Plan
from pipeline.stage import load_stage
from pipeline.step import Step


@dataclass
class Wanted:
    """One thing to fetch, and the steps that read it."""

    download: Download
    steps: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RemoteFile:
    """A file as its source describes it, and its place below the fetched folder."""

    source: str
    """What it belongs to."""
    url: str
    place: Path
    size: int | None
    """In bytes, where the source tells."""
    sha256: str | None = None
    git_sha1: str | None = None
    """Of small files of the hub, which git keeps: sha1 over "blob SIZE\\\\0" and the content."""
    needs_token: bool = False

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Listed:
    """One thing to fetch, with its files."""

    wanted: Wanted
    commit: str
    files: list[RemoteFile]
    tree: dict[str, dict[str, object]]
    """All files of a repository in the form of huggingface_hub's own list, trees/COMMIT.json."""


def wanted_by(plan: Plan) -> list[Wanted]:
    """In the order of the plan; the same repository at the same revision is one thing, with the patterns of all."""
    found: dict[str, Wanted] = {}
    for step in plan.steps:
        for download in _downloads(step):
            wanted = found.setdefault(download.model_dump_json(), Wanted(download))
            wanted.steps.append(step.name)
    return list(found.values())


def _downloads(step: Step) -> list[Download]:
    named = getattr(load_stage(step.stage), "downloads", None)
    roles = frozenset(role for role, value in step.inputs.items() if value is not None)
    return named(step.config, roles) if named else []
