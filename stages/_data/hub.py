"""A data set on the Hugging Face hub at one commit: whether it can be had, and its rows.

The commit's files are downloaded as a snapshot and read from there. `datasets.load_dataset(name, revision=...)` would,
without network, take the latest version it finds in its cache, whatever revision was asked for.
"""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.downloads import HubFiles, fetched_dir
from pipeline.errors import UserError
from stages._hub import absent, cache_dir, endpoint, find, headers, is_offline

TIMEOUT_SECONDS = 1.5


def files(name: str, revision: str) -> HubFiles:
    """All files of a data set."""
    return HubFiles(kind="dataset", name=name, revision=revision)


def problem(name: str, revision: str, instead: str = "name a local file (kind: files)") -> str | None:
    """Why this data set cannot be had here and now, in one line, or None. Takes at most TIMEOUT_SECONDS.

    `revision`: a commit, or a branch for what some library loads at whatever commit it finds.
    `instead`: what the user may do who has no hub.
    """
    wanted = files(name, revision)
    if find(wanted).is_complete or _may_be_prepared(wanted):
        return None
    if is_offline():
        return absent(wanted, instead)
    if unreachable := _unreachable(endpoint()):
        remedy = f"fill the cache on a machine that reaches the hub, or {instead}"
        return f"{wanted} is not cached and {endpoint()} cannot be reached ({unreachable}); {remedy}"
    status = _answer(f"{endpoint()}/api/datasets/{name}/revision/{revision}")
    if status == "200":
        return None
    return f"{wanted}: {endpoint()} answered {status}; check name and revision, and HF_TOKEN if it is gated"


def _may_be_prepared(wanted: HubFiles) -> bool:
    """`datasets` keeps, of what it loads by branch, a copy of its own, and only some files in the hub's cache."""
    return not wanted.is_pinned and fetched_dir() is None and (cache_dir() / wanted.folder_name).is_dir()


def rows(name: str, revision: str, config_name: str | None, split: str) -> Iterator[dict[str, Any]]:
    """Rows of a split or a slice such as "train[:1000]", in the hub's order. Raises UserError if unknown."""
    from datasets import load_dataset
    from huggingface_hub import snapshot_download

    found = find(files(name, revision))
    folder = found.folder if found.is_complete else None
    folder = folder or Path(snapshot_download(name, repo_type="dataset", revision=revision))
    try:
        loaded = load_dataset(str(folder), config_name, split=split)
    except ValueError as error:
        raise UserError(f"data set {name}@{revision[:12]}: {error}") from error
    return iter(loaded)


@cache
def _unreachable(address: str) -> str:
    """Why the hub does not answer, or "". Asked once a process: a plan may name many data sets.

    In a thread, because looking up a host name may hang far longer than any timeout of the connection.
    """
    answers = ["no answer within a moment"]
    thread = threading.Thread(target=lambda: answers.append(_answer(address)), daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    return "" if answers[-1].isdigit() else answers[-1]


def _answer(url: str) -> str:
    """The HTTP status as digits, or what went wrong before there was one."""
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers()), timeout=TIMEOUT_SECONDS
        ) as response:
            return str(response.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
