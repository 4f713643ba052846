"""Everything that is wanted into one folder: one process at a time, what is there and right is not fetched again."""

import errno
import json
import shutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock

from pipeline.content import file_sha256
from pipeline.downloads import HUB, HubFiles
from pipeline.errors import StepFailed, UserError
from pipeline.fetch.index import Index
from pipeline.fetch.transfer import Halted, bring, difference, partial_of
from pipeline.fetch.wanted import Listed, RemoteFile
from pipeline.lock import Lock as FolderLock

AT_ONCE = 4
BETWEEN_WRITES_SECONDS = 2.0
"""Of fetched.json: a file that it does not name is rehashed by a rerun, like all others."""
FULL = (errno.ENOSPC, errno.EDQUOT)


def to_fetch(root: Path, listed: Iterable[Listed]) -> int:
    """Bytes that are not there yet, by size alone."""
    return sum(max(0, (file.size or 0) - have(root, file)) for file in files_of(listed))


def files_of(listed: Iterable[Listed]) -> list[RemoteFile]:
    """Each once, also where two names lead to one commit."""
    return list({file.place: file for each in listed for file in each.files}.values())


def have(root: Path, file: RemoteFile) -> int:
    """Bytes of it that are there: all, or what an earlier run got."""
    path = root / file.place
    if path.is_file() and file.size in (None, path.stat().st_size):
        return path.stat().st_size
    partial = partial_of(root, file)
    return min(partial.stat().st_size, file.size or 0) if partial.exists() else 0


def refuse_small_disk(root: Path, num_bytes: int) -> None:
    """Raises UserError when the folder's disk has no room for so much."""
    existing = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if num_bytes > free:
        raise UserError(f"{root}: {num_bytes:,} bytes are to be fetched, found {free:,} free; use a larger disk")


def fetch(root: Path, listed: list[Listed]) -> None:
    """Bring, check and note all files. Raises StepFailed with a line for each that could not be had."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root):
            _Fetch(root, listed).run()
    except OSError as error:
        raise StepFailed(_of_disk(root, error)) from None


def _alone(root: Path) -> FolderLock:
    lock = FolderLock(root / ".lock")
    if lock.is_held():
        print(f"{root}: another fetch is at work there; waiting for it", file=sys.stderr)
    return lock


class _Fetch:
    """One run over one folder, which it has for itself."""

    def __init__(self, root: Path, listed: list[Listed]) -> None:
        self._root = root
        self._listed = listed
        self._index = Index(root)
        self._stop = Event()
        self._lock = Lock()
        self._written = time.monotonic()
        self._failures: list[str] = []
        self._failed: set[str] = set()
        """Sources of which a file could not be had: the others of it are not asked for."""
        self._files = files_of(listed)
        self._progress = _Progress(sum(file.size or 0 for file in self._files))

    def run(self) -> None:
        for each in self._listed:
            self._describe(each)
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                try:
                    list(pool.map(self._attempt, self._files))
                except BaseException:
                    self._stop.set()
                    pool.shutdown(cancel_futures=True)
                    raise
        finally:
            self._index.write()
            self._progress.close()
        if self._failures:
            raise StepFailed("\n".join(dict.fromkeys(self._failures)))

    def _describe(self, each: Listed) -> None:
        """The hub's own list of a commit's files, and which commit a branch is: first, so that a gap is noticed."""
        self._index.commits[str(each.wanted.download)] = each.commit
        if not isinstance(each.wanted.download, HubFiles):
            return
        files = each.wanted.download
        repository = self._root / HUB / files.folder_name
        tree = {"format_version": 1, "files": each.tree}
        _write(repository / "trees" / f"{each.commit}.json", json.dumps(tree, indent=1))
        if not files.is_pinned:
            _write(repository / "refs" / files.revision, each.commit)

    def _attempt(self, file: RemoteFile) -> None:
        if self._stop.is_set() or file.source in self._failed:
            return
        try:
            self._have(file)
        except Halted:
            return
        except StepFailed as error:
            self._fail(file, str(error))
        except OSError as error:
            self._stop.set()
            self._fail(file, _of_disk(self._root, error))

    def _have(self, file: RemoteFile) -> None:
        path = self._root / file.place
        if path.is_file():
            line = difference(path, file)
            if line is None:
                self._progress.add(path.stat().st_size)
                return self._note(file)
            print(f"{path}: {line}; it is fetched again", file=sys.stderr)
            path.unlink()
        self._progress.add(have(self._root, file))
        bring(self._root, file, self._stop, self._progress.add)
        return self._note(file)

    def _note(self, file: RemoteFile) -> None:
        path = self._root / file.place
        sha256 = file.sha256 or file_sha256(path)
        with self._lock:
            self._index.add(file.place, path.stat().st_size, sha256, file.url)
            if time.monotonic() - self._written > BETWEEN_WRITES_SECONDS:
                self._index.write()
                self._written = time.monotonic()

    def _fail(self, file: RemoteFile, line: str) -> None:
        with self._lock:
            self._failures.append(line)
            self._failed.add(file.source)


class _Progress:
    """One line on a terminal; nothing in a log."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._shown = 0.0
        self._lock = Lock()
        self._is_shown = sys.stderr.isatty()

    def add(self, num_bytes: int) -> None:
        with self._lock:
            self._done += num_bytes
            if self._is_shown and time.monotonic() - self._shown > 0.5:
                self._shown = time.monotonic()
                print(f"\r{self._done:,} of {self._total:,} bytes", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._is_shown:
            print(file=sys.stderr)


def _of_disk(root: Path, error: OSError) -> str:
    if error.errno in FULL:
        return f"{root}: the disk is full ({error.strerror}); make room and run again: what arrived is kept"
    return f"{root}: {error}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
