"""The elements of a JSON list, one after the other: a file of gigabytes takes no more memory than its longest row."""

import json
from collections.abc import Iterator
from typing import Any, TextIO

CHUNK_CHARS = 2**20
_SPACE = " \t\n\r"
_AFTER_VALUE = {*_SPACE, ",", "]"}


class NoList(ValueError):
    """The text starts with something else."""


def elements(file: TextIO, chunk_chars: int = CHUNK_CHARS) -> Iterator[Any]:
    """Raises NoList, or json.JSONDecodeError (whose position counts from the start of what is still in memory)."""
    text = _Text(file, chunk_chars)
    if text.skip_space() != "[":
        raise NoList
    text.position += 1
    if text.skip_space() == "]":
        text.position += 1
    else:
        yield text.value()
        while text.skip_space() == ",":
            text.position += 1
            text.skip_space()
            yield text.value()
        text.expect("]")
    if text.skip_space():
        raise json.JSONDecodeError("found something after the list", text.buffer, text.position)


class _Text:
    """What has been read but not yet used."""

    def __init__(self, file: TextIO, chunk_chars: int) -> None:
        self.file = file
        self.chunk_chars = chunk_chars
        self.buffer = ""
        self.position = 0

    def skip_space(self) -> str:
        """Move on to the next character that is no space; "" at the end."""
        while True:
            while self.position < len(self.buffer) and self.buffer[self.position] in _SPACE:
                self.position += 1
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self._read_on(self.chunk_chars):
                return ""

    def value(self) -> Any:
        """Any JSON value. Where it may go on behind the buffer, more is read, twice as much each time."""
        size = self.chunk_chars
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.buffer, self.position)
                if self.buffer[end : end + 1] in _AFTER_VALUE or not self._read_on(size):
                    self.position = end
                    return value
            except json.JSONDecodeError:
                if not self._read_on(size):
                    raise
            size *= 2

    def expect(self, character: str) -> None:
        """Move past it."""
        if self.skip_space() != character:
            raise json.JSONDecodeError(f"expected {character!r}", self.buffer, self.position)
        self.position += 1

    def _read_on(self, size: int) -> bool:
        """Forget what is used and read more; False at the end of the file."""
        more = self.file.read(size)
        if more:
            self.buffer, self.position = self.buffer[self.position :] + more, 0
        return bool(more)
