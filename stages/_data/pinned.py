"""A file on the web that is known by its sha256: fetched once, checked whenever it is read. Standard library only.

One cache for all stores, `~/.cache/nlora-pipeline/pinned/<sha256>` (or below XDG_CACHE_HOME), or that of a fetched
folder (`pipeline.downloads`); where no network is, a copy of the file put there by hand does as well. HF_HUB_OFFLINE
forbids fetching, as it does for the hub.
"""

import hashlib
import os
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.downloads import PINNED, WebFile, fetched_dir
from pipeline.errors import UserError
from stages._hub import is_offline

PREFLIGHT_SECONDS = 1.5
FETCH_SECONDS = 30.0
"""Without a byte from the server."""
_HEAL = "delete it and run again"


@dataclass(frozen=True)
class Pinned:
    """Where the file is, and the sha256 (64 hex digits) of its bytes."""

    url: str
    sha256: str

    @property
    def path(self) -> Path:
        """Its place in the cache, whether it is there or not."""
        return cache_dir() / self.sha256

    def download(self) -> WebFile:
        """It, as something to fetch."""
        return WebFile(url=self.url, sha256=self.sha256)


def cache_dir() -> Path:
    """The folder of all pinned files."""
    if fetched := fetched_dir():
        return fetched / PINNED
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nlora-pipeline" / "pinned"


def read(file: Pinned) -> bytes:
    """The file's bytes, which have the pinned sha256. Raises UserError when they cannot be had."""
    if not file.path.exists():
        _keep(file, _fetched(file))
    content = file.path.read_bytes()
    if line := _other_content(file, content):
        raise UserError(f"{file.path}: {line}; {_HEAL}")
    return content


def problem(file: Pinned) -> str | None:
    """Why `read` would fail here and now, in one line, or None. Takes about PREFLIGHT_SECONDS at most."""
    if file.path.exists():
        line = _other_content(file, file.path.read_bytes())
        return f"{file.path}: {line}; {_HEAL}" if line else None
    if is_offline():
        return f"{file.url} is not in the cache and {_forbidden()}; {_remedy(file)}"
    answer = _answer(file.url)
    return None if answer == "200" else f"{file.url} is not in the cache and cannot be had ({answer}); {_remedy(file)}"


def _fetched(file: Pinned) -> bytes:
    import urllib.error
    import urllib.request

    if is_offline():
        raise UserError(f"{file.url}: not in the cache and {_forbidden()}; {_remedy(file)}")
    try:
        with urllib.request.urlopen(file.url, timeout=FETCH_SECONDS) as response:
            content: bytes = response.read()
    except urllib.error.HTTPError as error:
        raise UserError(f"{file.url}: the server answered {error.code}, expected 200; {_remedy(file)}") from None
    except OSError as error:
        raise UserError(f"{file.url}: cannot be reached ({_reason(error)}); {_remedy(file)}") from None
    if line := _other_content(file, content):
        raise UserError(f"{file.url}: {line}: the file has changed at its source; {_remedy(file)}")
    return content


def _keep(file: Pinned, content: bytes) -> None:
    """As a whole or not at all, also when several steps fetch at once."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.path.parent, prefix=".", delete=False) as temporary:
        temporary.write(content)
    Path(temporary.name).replace(file.path)


def _other_content(file: Pinned, content: bytes) -> str | None:
    found = hashlib.sha256(content).hexdigest()
    return None if found == file.sha256 else f"found sha256 {found[:12]}..., expected {file.sha256[:12]}..."


@cache
def _answer(url: str) -> str:
    """The HTTP status to a HEAD request as digits, or what went wrong before there was one. Asked once a process.

    In a thread, because looking up a host name may hang far longer than any timeout of the connection.
    """
    import urllib.error
    import urllib.request

    answers = ["no answer within a moment"]

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=PREFLIGHT_SECONDS) as response:
                answers.append(str(response.status))
        except urllib.error.HTTPError as error:
            answers.append(str(error.code))
        except OSError as error:
            answers.append(_reason(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PREFLIGHT_SECONDS)
    return answers[-1]


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", error))


def _forbidden() -> str:
    return "PIPELINE_FETCHED is set" if fetched_dir() else "HF_HUB_OFFLINE is set"


def _remedy(file: Pinned) -> str:
    fetch = f"on a machine with network: python -m pipeline fetch RECIPE --to {fetched_dir()}, or "
    return f"{fetch if fetched_dir() else ''}copy it to {file.path}, or name a file of your own in the recipe"
