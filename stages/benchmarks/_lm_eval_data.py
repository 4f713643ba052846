"""lm-eval's tasks on local files instead of the hub's data sets: air-gapped machines, and a recipe's own data.

A data set's folder holds SPLIT.jsonl (or .json, .parquet, .csv; a hub snapshot's SPLIT-00000-of-00001.parquet too),
those of a subset in a folder of its name. In a mirror it lies as ORG/NAME or just NAME.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets

from pipeline.artifact import MANIFEST
from pipeline.downloads import HubFiles
from pipeline.errors import UserError
from stages import _hub
from stages.benchmarks._lm_eval_index import ON_HUB

READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
SUBSET_COLUMNS = {"EleutherAI/hendrycks_math": "type"}
"""Columns that tell the subset of a row, for data sets that are also passed around in one piece."""


class LocalSplits(datasets.DatasetDict):
    """The splits that are there. One that is not is empty, since tasks look at splits they then do not use."""

    folder: Path
    absent: set[str]

    def __missing__(self, split: str) -> datasets.Dataset:
        self.absent.add(split)
        return next(iter(self.values())).select([])


@contextmanager
def local_data(data: Mapping[str, Path], every: Path | None, cache_dir: Path) -> Iterator[list[LocalSplits]]:
    """Within it, `datasets.load_dataset` (all of lm-eval's tasks call it) takes the named data sets from folders.

    `every`: a data artifact, which stands for whatever data set is asked for. Gives what was read, as it is read.
    """
    original = datasets.load_dataset
    local: list[LocalSplits] = []
    whole: dict[Path, str | None] = {}  # folders without subsets, and the one subset each was taken for

    def load(path: str, name: str | None = None, **arguments: Any) -> Any:
        folder = every or data.get(path)
        if folder is None:
            return _from_hub(original, path, name, arguments, cache_dir)
        files = _files(folder, name)
        if not files:
            _refuse_second_subset(whole, folder, path, name)
            files = _files(folder, None)
        splits = _read(original, files, folder, cache_dir)
        local.append(splits)
        column = SUBSET_COLUMNS.get(path) if name and not _files(folder, name) else None
        return _of_subset(splits, column, name) if column else splits

    datasets.load_dataset = load
    try:
        yield local
    finally:
        datasets.load_dataset = original


def _from_hub(original: Any, path: str, name: str | None, arguments: dict[str, Any], cache_dir: Path) -> Any:
    if _hub.is_offline():
        path, arguments = _fetched(path, arguments, cache_dir)
    try:
        return original(path=path, name=name, **arguments)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"data set {path}{f' ({name})' if name else ''}: {str(error).splitlines()[0]}; fetch it on a machine that "
            f"reaches the hub, or name a local copy: `data: {{{path}: FOLDER}}`, or `mirror:` for all of a recipe"
        ) from error


def _fetched(path: str, arguments: dict[str, Any], cache_dir: Path) -> tuple[str, dict[str, Any]]:
    """The same from the files of the commit that was fetched, where they are here.

    `datasets` itself, without network, only looks among the data that it prepared before.
    """
    revision = arguments.get("revision") or "main"
    named = _folder_of(path, revision)
    files = _local_addresses(arguments.get("data_files"))
    if named is None and files == arguments.get("data_files"):
        return path, arguments
    kept = {key: value for key, value in arguments.items() if key not in ("revision", "data_files") and value}
    return str(named or path), {**kept, "cache_dir": str(cache_dir), **({"data_files": files} if files else {})}


def _folder_of(name: str, revision: str = "main") -> Path | None:
    found = _hub.find(HubFiles(kind="dataset", name=name, revision=revision))
    return found.folder if found.is_complete else None


def _local_addresses(files: Any) -> Any:
    """hf://datasets/ORG/NAME/FILE as a file of the fetched folder, in the lists and mappings that `datasets` takes."""
    if isinstance(files, Mapping):
        return {key: _local_addresses(value) for key, value in files.items()}
    if isinstance(files, list):
        return [_local_addresses(value) for value in files]
    found = ON_HUB.match(files) if isinstance(files, str) else None
    folder = _folder_of(found[1]) if found else None
    return f"{folder}{files[found.end() :]}" if found and folder else files


def _files(folder: Path, subset: str | None) -> dict[str, list[str]]:
    """By split: the files of a subset, or of a data set without subsets."""
    if folder.is_file():
        return {} if subset else {folder.stem: [str(folder)]}
    files: dict[str, list[str]] = {}
    for file in sorted((folder / subset if subset else folder).glob("*")):
        if file.suffix in READERS and file.is_file() and file.name != MANIFEST:
            files.setdefault(file.stem.partition("-0")[0], []).append(str(file))
    return files


def _refuse_second_subset(whole: dict[Path, str | None], folder: Path, path: str, name: str | None) -> None:
    """One file must not be taken for two subsets, as each would be scored on the rows of both."""
    if path not in SUBSET_COLUMNS and whole.setdefault(folder, name) != name:
        raise UserError(
            f"{folder}: found one data set for the subsets {whole[folder]} and {name} of {path}, expected a folder for "
            f"each, such as {folder / str(name) / 'test.jsonl'}"
        )


def _read(original: Any, files: dict[str, list[str]], folder: Path, cache_dir: Path) -> LocalSplits:
    """Raises UserError for a folder without files, or files of several kinds or that cannot be read."""
    kinds = {READERS[Path(file).suffix] for parts in files.values() for file in parts}
    if len(kinds) != 1:
        found = "files of several kinds" if kinds else "no data"
        raise UserError(f"{folder}: found {found}, expected test.jsonl and the like ({', '.join(READERS)})")
    try:
        loaded = original(kinds.pop(), data_files=files, cache_dir=str(cache_dir))
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        raise UserError(f"{folder}: {error.__cause__ or error}") from error
    splits = LocalSplits(loaded)
    splits.folder, splits.absent = folder, set()
    return splits


def _of_subset(splits: LocalSplits, column: str, subset: str | None) -> LocalSplits:
    for split, rows in splits.items():
        kept = [number for number, value in enumerate(rows[column]) if _as_subset(value) == subset]
        splits[split] = rows.select(kept)
    return splits


def _as_subset(value: str) -> str:
    """`Counting & Probability` as the hub names the subset: counting_and_probability."""
    return value.lower().replace("&", "and").replace(" ", "_")
