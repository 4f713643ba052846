"""A JSON-lines file of answers that is appended to as they arrive and read again after a crash."""

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stages._serving.requests import Answer

SYNC_SECONDS = 1.0


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file; what follows the last line break was torn off by a crash and is ignored."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1] if line.strip()]


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace the file as a whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    temporary.replace(path)


class AnswerFile:
    """Answers by (request id, sample, turn)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rows = read_json_lines(path) if path.exists() else []
        self.answers = {answer.key: answer for answer in map(Answer.model_validate, rows)}
        write_json_lines(path, rows)  # without a torn last line
        self._file = path.open("a", encoding="utf-8")
        self._synced = time.monotonic()

    def get(self, key: tuple[str, int, int], prompt_sha256: str) -> Answer | None:
        """The stored answer to exactly this prompt."""
        answer = self.answers.get(key)
        return answer if answer and answer.prompt_sha256 == prompt_sha256 else None

    def add(self, answer: Answer) -> None:
        """Append; on the disk for good within about a second, and in the operating system's hands at once."""
        self.answers[answer.key] = answer
        self._file.write(json.dumps(answer.model_dump(mode="json"), ensure_ascii=False) + "\n")
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def finish(self, order: dict[str, int]) -> list[Answer]:
        """Rewrite the file in the order of the requests (id -> position), without answers nobody asked for."""
        self._sync()
        self._file.close()
        wanted = [answer for answer in self.answers.values() if answer.id in order]
        ordered = sorted(wanted, key=lambda answer: (order[answer.id], answer.sample, answer.turn))
        write_json_lines(self.path, (answer.model_dump(mode="json") for answer in ordered))
        return ordered

    def __enter__(self) -> "AnswerFile":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._file.closed:
            self._sync()
            self._file.close()

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers.values())

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()
