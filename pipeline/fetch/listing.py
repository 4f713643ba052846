"""The files of repositories on the hub and of single addresses: names, sizes, hashes, before anything is fetched."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.downloads import HUB, PINNED, HubFiles, WebFile
from pipeline.errors import UserError
from pipeline.fetch.wanted import Listed, RemoteFile, Wanted

if TYPE_CHECKING:
    from huggingface_hub import HfApi

AT_ONCE = 8


def list_files(wanted: list[Wanted]) -> list[Listed]:
    """All of them. Raises UserError with a line for each that cannot be had."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise UserError("fetch: found HF_HUB_OFFLINE set, expected a machine that may ask the hub; unset it")
    api, problems = HfApi(endpoint=os.environ.get("HF_ENDPOINT")), list[str]()

    def attempt(each: Wanted) -> Listed | None:
        try:
            return _of_hub(api, each, each.download) if isinstance(each.download, HubFiles) else _of_web(each)
        except UserError as error:
            problems.extend(error.problems)
            return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        listed = list(pool.map(attempt, wanted))
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return [each for each in listed if each]


def reason(error: Exception, what: object, address: str) -> str:
    """One line for an answer or a failure of the network."""
    response = getattr(error, "response", None)
    if response is None:
        return f"{what}: {address} cannot be reached ({str(error) or type(error).__name__}); run again to go on"
    advice = {
        401: "set HF_TOKEN to a token that may read it; check name and revision",
        403: "it is gated: accept its conditions on its page with the account of HF_TOKEN",
        404: "check name and revision",
    }
    status = response.status_code
    return f"{what}: {address} answered {status}; {advice.get(status, 'run again later')}"


def _of_hub(api: HfApi, wanted: Wanted, files: HubFiles) -> Listed:
    import httpx2
    from huggingface_hub import RepoFile, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    folder = "datasets/" if files.kind == "dataset" else ""
    try:
        commit = api.repo_info(files.name, revision=files.revision, repo_type=files.kind).sha or ""
        tree = api.list_repo_tree(files.name, recursive=True, revision=commit, repo_type=files.kind)
        entries = {each.path: each for each in tree if isinstance(each, RepoFile)}
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise UserError(reason(error, files, f"{api.endpoint}/{folder}{files.name}")) from None
    if files.is_pinned and commit != files.revision:
        raise UserError(f"{files}: {api.endpoint} has {commit[:12]} for that commit, expected the same")
    names = files.wanted(entries)
    if not names:
        raise UserError(f"{files}: found none of {', '.join(files.patterns)} there; check name and revision")
    snapshot = Path(HUB) / files.folder_name / "snapshots" / commit
    remote = [
        RemoteFile(
            source=str(files),
            url=hf_hub_url(files.name, name, repo_type=files.kind, revision=commit, endpoint=api.endpoint),
            place=snapshot / name,
            size=entry.lfs.size if entry.lfs else entry.size,
            sha256=entry.lfs.sha256 if entry.lfs else None,
            git_sha1=None if entry.lfs else entry.blob_id,
            needs_token=True,
        )
        for name in names
        for entry in [entries[name]]
    ]
    return Listed(wanted, commit, remote, {name: _tree_entry(entry) for name, entry in sorted(entries.items())})


def _tree_entry(entry: object) -> dict[str, object]:
    """As huggingface_hub's own list of a commit's files has it (its _tree_cache.py)."""
    lfs = entry.lfs  # type: ignore[attr-defined]
    of_lfs = {"lfs_sha256": lfs.sha256, "lfs_size": lfs.size} if lfs else {}
    return {"size": entry.size, "blob_id": entry.blob_id, **of_lfs}  # type: ignore[attr-defined]


def _of_web(wanted: Wanted) -> Listed:
    import httpx2
    from huggingface_hub import get_session

    file = wanted.download
    assert isinstance(file, WebFile)
    try:
        answer = get_session().head(file.url, headers={"Accept-Encoding": "identity"}, follow_redirects=True)
        answer.raise_for_status()
    except (httpx2.HTTPError, OSError) as error:
        raise UserError(reason(error, file, "it")) from None
    size = answer.headers.get("content-length")
    remote = RemoteFile(
        str(file), file.url, Path(PINNED) / file.sha256, int(size) if size else None, sha256=file.sha256
    )
    return Listed(wanted, file.sha256[:12], [remote], {})
