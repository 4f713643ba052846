"""Answers are bought once: STORE/answers/<model>/ keeps every answer of a model as it arrives.

Each step that asks appends to a file of its own there and reads those of all. A row belongs to exactly what was asked
(`Prompt.answer_key`) of exactly that model: another template, limit or sample is another key, another model another
folder. A row that a crash tore off or a disk damaged does not fit its checksum and is asked for again.
"""

import json
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from pipeline.stage import Resources, Workspace
from stages._serving.engine import Completion

SYNC_SECONDS = 1.0


class AnswerStore:
    """Completions by key, of one model. Use it as a context manager."""

    def __init__(self, folder: Path, writer: str) -> None:
        """`writer` names the file to append to; whoever uses it must be its only writer (a step holds its lock)."""
        self._folder = folder
        self._path = folder / f"{writer}.jsonl"

    @classmethod
    def of(cls, owner: str, out: Workspace, resources: Resources) -> "AnswerStore":
        """The answers of the model with this fingerprint, written by the step that works in `out`."""
        root = resources.store_dir or out / ".store"
        return cls(root / "answers" / owner, out.path.name.removesuffix(".partial"))

    def __enter__(self) -> "AnswerStore":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._known = {
            key: completion for file in sorted(self._folder.glob("*.jsonl")) for key, completion in _rows(file)
        }
        self._file = self._path.open("ab")
        if self._file.tell() and not _ends_a_line(self._path):
            self._file.write(b"\n")  # so that a torn row does not spoil the next one
        self._synced = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._sync()
        empty = self._file.tell() == 0
        self._file.close()
        if empty:
            self._path.unlink()

    def get(self, key: str) -> Completion | None:
        """What was answered to exactly this before."""
        return self._known.get(key)

    def add(self, key: str, completion: Completion) -> None:
        """Append; in the operating system's hands at once, and on the disk for good within about a second."""
        self._known[key] = completion
        row = json.dumps({"key": key, **asdict(completion)}, ensure_ascii=False).encode()
        self._file.write(b"%08x %s\n" % (zlib.crc32(row), row))
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def _rows(file: Path) -> Iterator[tuple[str, Completion]]:
    """Those that fit their checksum; of others the log tells."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            checksum, _, row = line.rstrip(b"\n").partition(b" ")
            if checksum == b"%08x" % zlib.crc32(row):
                record = json.loads(row)
                yield record.pop("key"), Completion(**record)
            elif line.strip():
                print(f"{file}:{number}: a damaged answer; it is asked for again where it is wanted")


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
