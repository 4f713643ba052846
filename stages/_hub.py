"""The Hugging Face hub as the environment describes it, and what of it is here. Standard library only.

The variables are huggingface_hub's own, and PIPELINE_FETCHED (`pipeline.downloads`), which stands above them; importing
that library would cost preflight more than it may take.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.downloads import COMMIT, HUB, HubFiles, fetched_dir

MOST_NAMED = 3
POINTER = b"version https://git-lfs"
POINTER_BYTES = 1024
"""A Git LFS pointer is smaller (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""


@dataclass(frozen=True)
class Found:
    """What of a repository's files is here."""

    folder: Path | None = None
    """The commit's files, some of which may be missing."""
    missing: list[str] = field(default_factory=list)
    looked: list[Path] = field(default_factory=list)
    """Where it was looked for."""
    note: str = ""
    """Why what is there is not used."""

    @property
    def is_complete(self) -> bool:
        """As far as can be known without reading the files."""
        return self.folder is not None and not self.missing


def endpoint() -> str:
    """The hub's address, HF_ENDPOINT or its own."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE or a fetched folder forbids asking it."""
    return fetched_dir() is not None or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def cache_dir() -> Path:
    """Where huggingface_hub keeps what it has fetched."""
    if fetched := fetched_dir():
        return fetched / HUB
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{user_cache}/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def headers() -> dict[str, str]:
    """With HF_TOKEN, if there is one."""
    token = os.environ.get("HF_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def find(files: HubFiles) -> Found:
    """The folder of these files, in the hub's cache or the fetched folder, and which of them are missing there."""
    looked, note = [], ""
    for folder, tree, reason in _places(files):
        looked.append(folder)
        note = note or reason
        if not reason and folder.is_dir():
            return Found(folder, _missing(files, folder, tree), looked)
    return Found(None, [], looked, note)


def absent(files: HubFiles, instead: str = "") -> str | None:
    """Why these files are not here although nobody may be asked for them, in one line; None if they are.

    `instead`: what the user may do who has no hub.
    """
    found = find(files)
    if found.is_complete:
        return None
    return f"{files} {_why(found)} and {_forbidden()}; {_remedy()}{f', or {instead}' if instead else ''}"


def _why(found: Found) -> str:
    if found.folder:
        names = ", ".join(found.missing[:MOST_NAMED])
        more = f" and {len(found.missing) - MOST_NAMED} more" if len(found.missing) > MOST_NAMED else ""
        return f"lacks {names}{more} in {found.folder}"
    if found.note:
        return found.note
    if fetched_dir():
        return f"is not at {' or '.join(map(str, found.looked))}"
    return f"is not in the hub cache {cache_dir()}"


def _forbidden() -> str:
    return "PIPELINE_FETCHED names that folder" if fetched_dir() else "HF_HUB_OFFLINE is set"


def _remedy() -> str:
    folder = fetched_dir()
    return f"on a machine with network: python -m pipeline fetch RECIPE --to {folder or 'DIR'}"


def _places(files: HubFiles) -> Iterator[tuple[Path, Path | None, str]]:
    """(folder, list of its files if there is one, why it is not used or "")."""
    repository = cache_dir() / files.folder_name
    commit = files.revision if files.is_pinned else _read(repository / "refs" / files.revision)
    yield repository / "snapshots" / (commit or files.revision), repository / "trees" / f"{commit}.json", ""
    if fetched := fetched_dir():
        plain = fetched / f"{files.kind}s" / files.name
        if (plain / files.revision).is_dir():
            yield plain / files.revision, None, ""
        else:
            at = _commit_of(plain)
            yield plain, plain / ".cache" / "huggingface" / "trees" / f"{at}.json", _mismatch(files, plain, at)


def _mismatch(files: HubFiles, folder: Path, commit: str | None) -> str:
    if not files.is_pinned or not folder.is_dir() or commit == files.revision:
        return ""
    if commit:
        return f"is not at {folder}, which has commit {commit[:12]}"
    return f"is not at {folder}, which does not tell its commit (name it {folder / files.revision} if it has that one)"


def _commit_of(folder: Path) -> str | None:
    """Which commit a git clone or a folder of `hf download --local-dir` has."""
    for metadata in sorted((folder / ".cache" / "huggingface" / "download").rglob("*.metadata")):
        return _commit(metadata.read_text().partition("\n")[0])
    head = _read(folder / ".git" / "HEAD") or ""
    if not head.startswith("ref: "):
        return _commit(head)
    branch = head.removeprefix("ref: ")
    packed = (_read(folder / ".git" / "packed-refs") or "").splitlines()
    named = (line.split()[0] for line in packed if line.endswith(f" {branch}"))
    return _commit(_read(folder / ".git" / branch) or next(named, ""))


def _commit(text: str) -> str | None:
    return text.strip() if COMMIT.fullmatch(text.strip()) else None


def _missing(files: HubFiles, folder: Path, tree: Path | None) -> list[str]:
    """By the list that huggingface_hub and `fetch` write before they download; without one, what is there counts."""
    listed = json.loads(tree.read_text())["files"] if tree and tree.is_file() else None
    if listed is None:
        return _without_a_list(files, folder)
    names = files.wanted(listed)
    return [name for name in names if not _is_whole(folder / name, listed[name].get("size"))]


def _is_whole(file: Path, size: int | None) -> bool:
    return file.is_file() and size in (None, file.stat().st_size)


def _without_a_list(files: HubFiles, folder: Path) -> list[str]:
    """Pointers that a git clone without LFS left; an unlisted data set outside of a fetched folder may be cut off."""
    if fetched_dir() is None:
        return [] if files.kind == "model" else ["its list of files"]
    there = [file for file in folder.rglob("*") if file.is_file() and ".git" not in file.relative_to(folder).parts]
    names = files.wanted(str(file.relative_to(folder)) for file in there)
    return [f"{name} (a Git LFS pointer: git lfs pull)" for name in names if _is_pointer(folder / name)]


def _is_pointer(file: Path) -> bool:
    if file.stat().st_size > POINTER_BYTES:
        return False
    return file.read_bytes().startswith(POINTER)


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
