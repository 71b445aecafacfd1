"""Sources of rows: files, folders, data sets and synthetic problems, by split."""

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpojax._extras import optional

from ._files import number_rows, Placed, read_file, SUFFIXES
from ._generated import generate, is_generated
from ._verifiers import has_eval_rows, is_environment, rows_of


def read(
    source: str | os.PathLike[str],
    split: str,
    *,
    configuration: str | None = None,
    revision: str | None = None,
    count: int | None = None,
    seed: int = 0,
) -> Iterator[Placed]:
    """The rows of one split of a source, with their places; see `load_rows`."""
    path = Path(source)
    if is_generated(source):
        rows = generate(str(source), split, count=count, seed=seed)
        return number_rows(f"{source}, row", rows)
    if is_environment(source):
        return number_rows(f"{source}, {split}, row", rows_of(str(source), split))
    if path.is_dir() and _is_saved(path):
        return number_rows(f"{path}, {split}, row", _load_saved(path, split))
    if path.is_dir():
        files = _files_of_split(path, split)
        return itertools.chain.from_iterable(map(read_file, files))
    if path.is_file():
        return read_file(path)
    if _is_hub_id(source):
        rows = _download(str(source), split, configuration, revision)
        return number_rows(f"{source}, {split}, row", rows)
    raise FileNotFoundError(
        "A source is 'word-problems', 'reasoning_gym:TASK', 'verifiers:ENVIRONMENT', "
        f"a file ({', '.join(SUFFIXES)}), a folder of them, a folder that `datasets` "
        "has saved, or the id of a data set on the "
        f"Hugging Face hub. Received {os.fspath(source)!r}, which is none of these: "
        "check the path."
    )


def has_split(
    source: str | os.PathLike[str],
    split: str,
    *,
    configuration: str | None = None,
    revision: str | None = None,
) -> bool:
    """Whether a source has a split; a file, or one saved data set, has none."""
    path = Path(source)
    if is_generated(source):
        return split in ("train", "test")
    if is_environment(source):
        return split == "train" or (split == "test" and has_eval_rows(str(source)))
    if path.is_dir() and _is_saved(path):
        saved = _load(path)
        return isinstance(saved, dict) and split in saved
    if path.is_dir():
        return bool(_named(path, split))
    if path.is_file() or not _is_hub_id(source):
        return False
    return split in _ask_hub(
        "get_dataset_split_names", str(source), configuration, revision=revision
    )


def _is_hub_id(source: str | os.PathLike[str]) -> bool:
    pattern = r"[\w-]+/[\w-][\w.-]*"
    return isinstance(source, str) and re.fullmatch(pattern, source) is not None


def _named(folder: Path, split: str) -> list[Path]:
    """`split.csv`, or shards as the hub names them, there or in its folder `data`."""
    stem = re.compile(re.escape(split) + r"(-[\w-]+)?")
    for place in (folder, folder / "data"):
        files = sorted(place.iterdir()) if place.is_dir() else []
        files = [x for x in files if x.suffix.lower() in SUFFIXES and x.is_file()]
        found = [x for x in files if stem.fullmatch(x.stem)]
        if found:
            return found
    return []


def _files_of_split(folder: Path, split: str) -> list[Path]:
    files = _named(folder, split)
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
    if not files:
        raise FileNotFoundError(
            f"A folder must hold {split}.jsonl or {split}.parquet for its split "
            f"{split!r}, or another file of rows. {os.fspath(folder)!r} holds {found}: "
            "rename the file, or pass its own path."
        )
    kinds = {path.suffix.lower() for path in files}
    if len(kinds) > 1:
        raise ValueError(
            f"The files of a split are of one kind. {os.fspath(folder)!r} holds "
            f"{', '.join(x.name for x in files)}: pass the path of one of them."
        )
    return files


def _is_saved(folder: Path) -> bool:
    return any((folder / x).is_file() for x in ("state.json", "dataset_dict.json"))


def _load(folder: Path) -> Any:
    datasets = optional("datasets", f"The source {os.fspath(folder)!r}")
    try:
        return datasets.load_from_disk(os.fspath(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            "A folder saved by `datasets` holds all of its files. "
            f"{os.fspath(folder)!r} cannot be loaded ({error}): save it again."
        ) from error


def _load_saved(folder: Path, split: str) -> Iterator[object]:
    saved = _load(folder)
    if not isinstance(saved, dict):
        return iter(saved)
    if split not in saved:
        raise FileNotFoundError(
            f"A split must be one of the source's. {os.fspath(folder)!r} has no "
            f"{split!r}, but {', '.join(saved)}: name one of these."
        )
    return iter(saved[split])


def _download(
    source: str, split: str, configuration: str | None, revision: str | None
) -> Iterator[object]:
    return iter(
        _ask_hub("load_dataset", source, configuration, split=split, revision=revision)
    )


def _ask_hub(
    function: str, source: str, configuration: str | None, **more: object
) -> Any:
    datasets = optional("datasets", f"The source {source!r}")
    # GSM8K comes in two configurations; most data sets have a single one.
    if configuration is None and source == "openai/gsm8k":
        configuration = "main"
    try:
        return getattr(datasets, function)(source, configuration, **more)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{source!r} is no file or folder here, and no data set of the Hugging "
            f"Face hub, configuration {configuration!r} ({error}). Check the name, the "
            "configuration, the split and the connection, or pass a local file."
        ) from error
