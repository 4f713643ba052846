"""A data set on the Hugging Face hub at one commit: whether it can be had, and its rows.

The commit's files are downloaded as a snapshot and read from there. `datasets.load_dataset(name, revision=...)` would,
without network, take the latest version it finds in its cache, whatever revision was asked for.
"""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from stages._hub import cache_dir, endpoint, headers, is_offline

TIMEOUT_SECONDS = 1.5


def problem(name: str, revision: str, instead: str = "name a local file (kind: files)") -> str | None:
    """Why this data set cannot be had here and now, in one line, or None. Takes at most TIMEOUT_SECONDS.

    `instead`: what the user may do who has no hub.
    """
    remedy = f"fill the cache on a machine that reaches the hub, or {instead}"
    where = f"data set {name}@{revision[:12]}"
    if cached_snapshot(name, revision):
        return None
    if is_offline():
        return f"{where} is not in the hub cache {cache_dir()} and HF_HUB_OFFLINE is set; {remedy}"
    unreachable = _unreachable(endpoint())
    if unreachable:
        return f"{where} is not cached and {endpoint()} cannot be reached ({unreachable}); {remedy}"
    status = _answer(f"{endpoint()}/api/datasets/{name}/revision/{revision}")
    if status == "200":
        return None
    return f"{where}: {endpoint()} answered {status}; check name and revision, and HF_TOKEN if it is gated"


def cached_snapshot(name: str, revision: str) -> Path | None:
    """The folder of this commit in the hub's local cache, if all files of the commit are there.

    huggingface_hub writes the list of files to `trees/<commit>.json` before it downloads them.
    """
    repository = cache_dir() / f"datasets--{name.replace('/', '--')}"
    snapshot, tree = repository / "snapshots" / revision, repository / "trees" / f"{revision}.json"
    if not snapshot.is_dir() or not tree.is_file():
        return None
    expected = json.loads(tree.read_text())["files"]
    return snapshot if all((snapshot / file).exists() for file in expected) else None


def unpinned_problem(name: str) -> str | None:
    """The same for a data set that some library loads at whatever revision it finds."""
    if (cache_dir() / f"datasets--{name.replace('/', '--')}").is_dir():
        return None
    if is_offline():
        return f"data set {name} is not in the hub cache {cache_dir()} and HF_HUB_OFFLINE is set"
    unreachable = _unreachable(endpoint())
    return f"data set {name} is not cached and {endpoint()} cannot be reached ({unreachable})" if unreachable else None


def rows(name: str, revision: str, config_name: str | None, split: str) -> Iterator[dict[str, Any]]:
    """Rows of a split or a slice such as "train[:1000]", in the hub's order. Raises UserError if unknown."""
    from datasets import load_dataset
    from huggingface_hub import snapshot_download

    folder = cached_snapshot(name, revision) if is_offline() else None
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
