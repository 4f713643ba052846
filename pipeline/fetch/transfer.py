"""One file from its source to its place: what is there already goes on, what arrived is checked, then it is moved."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from threading import Event

from pipeline.content import file_sha256
from pipeline.errors import StepFailed
from pipeline.fetch.listing import reason
from pipeline.fetch.wanted import RemoteFile

CHUNK_BYTES = 1 << 20
NUM_RETRIES = 5
"""In a row without a byte."""
PAUSE_SECONDS = 1.0
SILENCE_SECONDS = 30.0
PARTIAL = ".partial"

Arrived = Callable[[int], None]


class Halted(StepFailed):
    """Something else failed for all."""


class OtherContent(StepFailed):
    """What arrived is not what its source describes."""


def partial_of(root: Path, file: RemoteFile) -> Path:
    """Where it grows, on the same file system, outside of what anybody reads."""
    return root / PARTIAL / hashlib.sha256(str(file.place).encode()).hexdigest()[:32]


def difference(path: Path, file: RemoteFile) -> str | None:
    """What is other than the source describes it, or None. Reads the file."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"found {size:,} bytes, expected {file.size:,}"
    if file.sha256 and (found := file_sha256(path)) != file.sha256:
        return f"found sha256 {found[:12]}..., expected {file.sha256[:12]}..."
    if file.git_sha1 and (found := _git_sha1(path)) != file.git_sha1:
        return f"found git blob {found[:12]}..., expected {file.git_sha1[:12]}..."
    return None


def bring(root: Path, file: RemoteFile, stop: Event, arrived: Arrived) -> None:
    """Fetch it to its place. Raises StepFailed when the source fails; OSError when the disk does.

    `stop`: ends it, with what arrived kept. `arrived` is told of bytes.
    """
    partial, target = partial_of(root, file), root / file.place
    partial.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(2):  # what an earlier run left may have been damaged, so it is fetched once more as a whole
        _grow(partial, file, stop, arrived)
        line = difference(partial, file)
        if line is None:
            break
        partial.unlink()
        if attempt:
            raise OtherContent(f"{file}: {line}; nothing of it is kept, run again later")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(target)


def _grow(partial: Path, file: RemoteFile, stop: Event, arrived: Arrived) -> None:
    """Append until it is whole; a connection that breaks is opened again where it broke."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    failures = 0
    partial.touch()
    while not stop.is_set() and (file.size is None or partial.stat().st_size != file.size):
        before = partial.stat().st_size
        if file.size is not None and before > file.size:
            partial.write_bytes(b"")
        try:
            _append(partial, file, stop, arrived)
            if file.size is None:
                return
        except (HfHubHTTPError, httpx2.HTTPError) as error:
            failures = 1 if partial.stat().st_size > before else failures + 1
            if failures > NUM_RETRIES or not _may_pass(error):
                raise StepFailed(reason(error, file.source, "its server")) from None
            stop.wait(PAUSE_SECONDS)
            continue
        failures = failures + 1 if partial.stat().st_size <= before else 0
        if failures > NUM_RETRIES:
            return  # the source ended it early; its size then tells
    if stop.is_set():
        raise Halted(f"{file}: stopped; run again to go on")


def _append(partial: Path, file: RemoteFile, stop: Event, arrived: Arrived) -> None:
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    have = partial.stat().st_size if file.size is not None else 0
    headers = build_hf_headers() if file.needs_token else {}
    headers |= {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with get_session().stream(
        "GET", file.url, headers=headers, follow_redirects=True, timeout=SILENCE_SECONDS
    ) as answer:
        hf_raise_for_status(answer)
        goes_on = bool(have) and answer.status_code == 206
        with partial.open("ab" if goes_on else "wb") as target:
            if have and not goes_on:
                arrived(-have)
            for chunk in answer.iter_bytes():  # as they come: what arrived before a break is kept
                target.write(chunk)
                arrived(len(chunk))
                if stop.is_set():
                    return


def _may_pass(error: Exception) -> bool:
    """Whether asking again may help: the network failed, or the server has trouble or too much to do."""
    response = getattr(error, "response", None)
    return response is None or response.status_code in (408, 416, 429) or response.status_code >= 500


def _git_sha1(path: Path) -> str:
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
