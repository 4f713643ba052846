"""The identity of a user's own file or folder: its content."""

import hashlib
from functools import cache
from pathlib import Path


@cache
def content_digest(path: Path) -> str:
    """sha256 over the relative names and bytes of all files below `path`, or over the bytes of a single file.

    What does not exist has the digest "missing": planning goes on, and preflight reports it.
    """
    if path.is_file():
        return file_sha256(path)
    if not path.is_dir():
        return "missing"
    digest = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        digest.update(f"{file.relative_to(path)}\0{file_sha256(file)}\0".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """64 hex digits of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
