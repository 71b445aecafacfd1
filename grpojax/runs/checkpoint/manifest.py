"""Checksums over a directory: whether it is what was written."""

import hashlib
import io
import json
import os
from pathlib import Path

from ..._files import fsync_directory
from ..io.atomic import write_json


_MANIFEST = "manifest.json"
_FORMAT = 1


def write(directory: Path) -> None:
    """Puts every file on the disk, and then a list of their checksums beside them."""
    sums = {}
    for path in _files(directory):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            sums[_name(path, directory)] = _checksum(file)
    for folder, _, _ in os.walk(directory):
        fsync_directory(Path(folder))
    write_json(directory / _MANIFEST, {"format": _FORMAT, "sha256": sums})


def verify(directory: Path) -> str | None:
    """What is wrong with a sealed directory, in words, or `None`."""
    try:
        manifest = json.loads((directory / _MANIFEST).read_bytes())
        sums = dict(manifest["sha256"])
        if manifest["format"] != _FORMAT:
            return f"its format is {manifest['format']}, and {_FORMAT} can be read"
    except OSError as error:
        return f"its {_MANIFEST} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError):
        return f"its {_MANIFEST} is not as it was written"
    there = {_name(path, directory): path for path in _files(directory)}
    for name in sums.keys() - there.keys():
        return f"its file {name} is missing"
    for name in there.keys() - sums.keys():
        return f"its file {name} is not in its {_MANIFEST}"
    for name, path in there.items():
        try:
            with path.open("rb") as file:
                same = _checksum(file) == sums[name]
        except OSError as error:
            return f"its file {name} cannot be read ({error.strerror})"
        if not same:
            return f"its file {name} is not as it was written (its checksum differs)"
    return None


def _files(directory: Path) -> list[Path]:
    paths = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return [path for path in paths if path != directory / _MANIFEST]


def _name(path: Path, directory: Path) -> str:
    return path.relative_to(directory).as_posix()


def _checksum(file: io.BufferedIOBase) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
