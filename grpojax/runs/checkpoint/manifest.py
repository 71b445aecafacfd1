"""A manifest of SHA-256 checksums that detects any change to a directory's files."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from ..._files import fsync_directory
from ..io.atomic import write_json


MANIFEST = "manifest.json"
_FORMAT = 1


def write(directory: Path) -> None:
    """Flushes every file of a directory to the disk, then writes their checksums."""
    sums = {}
    for path in _files(directory):
        with path.open("rb+") as file:
            os.fsync(file.fileno())
            sums[_name(path, directory)] = hashlib.file_digest(file, "sha256")
    for folder, _, _ in os.walk(directory):
        fsync_directory(Path(folder))
    digests = {name: digest.hexdigest() for name, digest in sums.items()}
    write_json(directory / MANIFEST, {"format": _FORMAT, "sha256": digests})


def verify(directory: Path, names: Iterable[str] | None = None) -> str | None:
    """The first difference between a directory and its manifest, in words, if any.

    Checks the files with these `names`; by default all, and that there are no others.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_bytes())
        sums = dict(manifest["sha256"])
        if manifest["format"] != _FORMAT:
            return f"its format is {manifest['format']}, and {_FORMAT} can be read"
    except OSError as error:
        return f"its {MANIFEST} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"its {MANIFEST} is not as it was written"
    if names is None:
        present = {_name(path, directory) for path in _files(directory)}
        for name in sums.keys() - present:
            return f"its file {name} is missing"
        for name in present - sums.keys():
            return f"its file {name} is not in its {MANIFEST}"
        names = sums
    for name in names:
        try:
            with (directory / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return f"its file {name} cannot be read ({error.strerror})"
        if digest != sums.get(name):
            return f"its file {name} is not as it was written (its checksum differs)"
    return None


def _files(directory: Path) -> list[Path]:
    paths = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return [path for path in paths if path != directory / MANIFEST]


def _name(path: Path, directory: Path) -> str:
    return path.relative_to(directory).as_posix()
