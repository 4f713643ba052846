"""fetched.json: every file that was fetched, its size and sha256, and which commit of what it belongs to."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.content import file_sha256
from pipeline.downloads import INDEX
from pipeline.errors import UserError

FORMAT = 1


class Index:
    """The folder's record, written as a whole or not at all."""

    def __init__(self, root: Path) -> None:
        """Raises UserError for a record of another form."""
        self._path = root / INDEX
        self.files: dict[str, dict[str, Any]] = {}
        """Path below the folder -> bytes, sha256, url."""
        self.commits: dict[str, str] = {}
        """What was asked for -> the commit that it was."""
        if self._path.exists():
            read = _read(self._path)
            self.files, self.commits = read["files"], read["commits"]

    def add(self, place: Path, num_bytes: int, sha256: str, url: str) -> None:
        """Note a checked file."""
        self.files[str(place)] = {"bytes": num_bytes, "sha256": sha256, "url": url}

    def write(self) -> None:
        """Replace fetched.json."""
        content = {"format": FORMAT, "commits": self.commits, "files": dict(sorted(self.files.items()))}
        temporary = self._path.with_name(f".{INDEX}.{os.getpid()}")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(self._path)


def damage(root: Path) -> tuple[int, list[str]]:
    """How many files fetched.json names, and a line for each that is missing or other than it was. Reads them all."""
    if not (root / INDEX).exists():
        raise UserError(f"{root}: found no {INDEX}, expected a folder that `fetch` wrote")
    files = Index(root).files
    return len(files), [line for place, noted in files.items() if (line := _damage(root / place, noted))]


def _damage(path: Path, noted: dict[str, Any]) -> str | None:
    if not path.is_file():
        return f"{path}: missing"
    size = path.stat().st_size
    if size != noted["bytes"]:
        return f"{path}: found {size:,} bytes, expected {noted['bytes']:,}"
    found = file_sha256(path)
    return None if found == noted["sha256"] else f"{path}: found sha256 {found[:12]}..., its bytes have changed"


def _read(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; delete it: `fetch` writes it again from the files") from None
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        raise UserError(f"{path}: found another form, expected format {FORMAT}; delete it and fetch again")
    return read
