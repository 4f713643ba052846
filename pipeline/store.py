"""The artifact store: where each piece of work lives on disk, and how it is sealed.

    STORE/<stage>/<fingerprint>/           sealed: its manifest.json was written last
    STORE/<stage>/<fingerprint>.partial/   work in progress, kept over a crash so that the stage resumes in it
    STORE/answers/<fingerprint>/           answers of the model with that fingerprint, a file for each step that asked
    STORE/trackers/                        what TensorBoard, wandb and MLflow keep of trainings
    STORE/submissions/                     what was handed to Slurm (`pipeline.slurm.submission`)
    STORE/logs/, STORE/locks/, STORE/runs/, STORE/cache/

Fingerprints are shortened to 16 hex digits in names; the manifest holds all 64.
"""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from errno import EBUSY, ENOENT, ENOTEMPTY
from pathlib import Path
from typing import Any

from pipeline.artifact import MANIFEST, Artifact
from pipeline.errors import StepFailed
from pipeline.lock import Lock
from pipeline.machine import is_on_network

ANSWERS = "answers"
_RESERVED = {ANSWERS, "trackers", "logs", "locks", "runs", "cache", "submissions"}
_PARTIAL = ".partial"
PATIENCE_SECONDS = 70.0


class Store:
    """All paths below one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def directory(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / fingerprint[:16]

    def partial(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / f"{fingerprint[:16]}{_PARTIAL}"

    def log(self, stage: str, fingerprint: str) -> Path:
        return self.root / "logs" / f"{stage}-{fingerprint[:16]}.log"

    def lock(self, stage: str, fingerprint: str) -> Lock:
        return Lock(self._locks / f"{stage}-{fingerprint[:16]}.lock")

    def is_sealed(self, stage: str, fingerprint: str) -> bool:
        return (self.directory(stage, fingerprint) / MANIFEST).exists()

    def wait_for(self, works: Collection[tuple[str, str]]) -> None:
        """Until all of them, (stage, fingerprint), are sealed here too, but not for long.

        What another machine has sealed a moment ago may not show yet: clients of network file systems remember what
        was not there, NFS for up to a minute (nfs(5), acdirmax).
        """
        deadline = time.monotonic() + (PATIENCE_SECONDS if is_on_network(self.root) else 0.0)
        while time.monotonic() < deadline and not all(self.is_sealed(*work) for work in works):
            time.sleep(1.0)

    def artifact(self, stage: str, fingerprint: str) -> Artifact:
        """The sealed artifact. Raises StepFailed when its manifest is damaged or is of other work."""
        artifact = Artifact(path=self.directory(stage, fingerprint), stage=stage, fingerprint=fingerprint)
        try:
            found = artifact.manifest()["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StepFailed(
                f"{artifact.path / MANIFEST}: damaged ({error}); delete the folder {artifact.path} to recompute it"
            ) from error
        if found != fingerprint:
            raise StepFailed(
                f"{artifact.path}: holds {found[:16]}, expected {fingerprint[:16]}; delete it to recompute it"
            )
        return artifact

    def artifacts(self) -> Iterator[Path]:
        """The folder of every sealed artifact."""
        for stage in self._stage_folders():
            folders = sorted(path.parent for path in stage.glob(f"*/{MANIFEST}"))
            yield from (folder for folder in folders if folder.suffix != _PARTIAL)  # one that is about to be renamed

    def partials(self) -> Iterator[Path]:
        """The folder of every unfinished one."""
        for stage in self._stage_folders():
            yield from sorted(stage.glob(f"*{_PARTIAL}"))

    def answers(self) -> Iterator[Path]:
        """The folder of every model that answered something."""
        folder = self.root / ANSWERS
        yield from sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ()

    def is_written(self, answers: Path) -> bool:
        """Whether a step that works now asks that model: each appends to the file of its own name."""
        names = (path for file in answers.glob("*.jsonl") for path in self._locks.glob(f"*-{file.stem}.lock.*"))
        return any(Lock(path.with_suffix("")).is_held() for path in names)

    @property
    def _locks(self) -> Path:
        return self.root / "locks"

    def _stage_folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if path.is_dir() and path.name not in _RESERVED)


def seal(partial: Path, target: Path, manifest: dict[str, Any]) -> None:
    """Make a finished `partial` the artifact `target`: remove scratch, hash, fsync, manifest last, rename.

    A crash before the rename leaves the partial, after it the artifact; nothing between is visible. If another was
    faster, which a lost lock allows, its artifact stays: a folder is never renamed onto one that is not empty.
    """
    try:
        _seal(partial, target, manifest)
    except OSError as error:
        if not (target / MANIFEST).exists():
            if target.exists() and partial.exists():
                raise StepFailed(f"{target}: is in the way and no artifact ({error.strerror}); delete it") from error
            raise
        if partial.exists():
            remove(partial)


def _seal(partial: Path, target: Path, manifest: dict[str, Any]) -> None:
    for path in partial.iterdir():
        if path.name.startswith("."):
            _remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (partial / MANIFEST).unlink(missing_ok=True)
    files = {str(path.relative_to(partial)): describe_file(path) for path in _files(partial)}
    with (partial / MANIFEST).open("w") as file:
        json.dump({**manifest, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(partial)
    partial.rename(target)
    _sync_folder(target.parent)


def describe_file(path: Path) -> dict[str, Any]:
    """{"bytes", "sha256"} of a file that is first forced to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def damage(directory: Path, rehash: bool) -> list[str]:
    """What is wrong with an artifact's files, one line each: missing, other size or content, not in the manifest."""
    recorded = json.loads((directory / MANIFEST).read_text())["files"]
    present = {str(path.relative_to(directory)): path for path in _files(directory) if path.name != MANIFEST}
    problems = [f"{directory / name}: not in the manifest" for name in sorted(present.keys() - recorded.keys())]
    for name, expected in recorded.items():
        if name not in present:
            problems.append(f"{directory / name}: missing")
        elif (size := present[name].stat().st_size) != expected["bytes"]:
            problems.append(f"{directory / name}: {size} bytes, expected {expected['bytes']}")
        elif rehash and describe_file(present[name])["sha256"] != expected["sha256"]:
            problems.append(f"{directory / name}: content differs from its recorded sha256")
    return problems


def remove(directory: Path) -> None:
    """Delete an artifact or partial so that a crash half-way leaves none: out of sight first, then file by file."""
    doomed = directory.with_name(f".{directory.name}.deleted.{secrets.token_hex(4)}")
    directory.rename(doomed)
    _remove_tree(doomed)


def _remove_tree(directory: Path) -> None:
    """What a program still holds open stays on NFS under a name of its client's, and its folder with it."""

    def forgive(_function: object, _path: str, details: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(details[1], OSError) or details[1].errno not in (ENOTEMPTY, EBUSY, ENOENT):
            raise details[1]

    shutil.rmtree(directory, onerror=forgive)


def _files(directory: Path) -> list[Path]:
    """All but those that NFS keeps for a program that has them open."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(".nfs"))


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
