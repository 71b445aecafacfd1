"""Checks of the directory that a run is to be written to, or resumed in."""

import errno
import json
import os
from pathlib import Path

import yaml


# Orbax joins directories into glob patterns when it merges what the processes wrote,
# and takes a backslash for a separator: a checkpoint below `lr[1e-4]` would have no
# arrays, and one below `run?` might have those of `run1`.
_UNSUPPORTED = "*?[\\"


def check_characters(path: str | os.PathLike[str]) -> None:
    r"""Checks that checkpoints below a path can be read back.

    **Raises:** `ValueError` if the absolute path contains one of `*`, `?`, `[`, `\`, or
    bytes that are no UTF-8.
    """
    absolute = os.fspath(Path(path).absolute())
    found = [character for character in _UNSUPPORTED if character in absolute]
    if found:
        raise ValueError(
            "Checkpoints cannot be read back from a path with a glob character or a "
            f"backslash. Received {absolute!r}, which contains {' '.join(found)}: "
            "choose another name, such as lr-1e-4 for lr[1e-4]."
        )
    try:
        absolute.encode()
    except UnicodeEncodeError:
        raise ValueError(
            "The path of a run is text in UTF-8, as that of its checkpoints. Received "
            f"{os.fsencode(absolute)!r}: choose another name."
        ) from None


def check_writable(path: Path) -> None:
    """Checks that a directory is writable, or can be created."""
    parents = [path, *path.absolute().parents]
    existing = next(parent for parent in parents if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            errno.EACCES,
            f"A run must be able to write. {os.fspath(existing)!r} is read-only: "
            "change its permissions, or choose another directory.",
        )


def check_config(config: bytes, path: Path) -> None:
    """Checks that a configuration is a YAML mapping, as every run writes one."""
    try:
        values = yaml.safe_load(config)
        problem = None if isinstance(values, dict) else "not a YAML mapping"
    except (ValueError, RecursionError, yaml.YAMLError):
        problem = "not YAML"
    if not config.strip():
        problem = "empty"
    if problem is not None:
        raise ValueError(
            "A run is resumed with the configuration that it was started with. "
            f"{os.fspath(path)!r} is {problem}: restore it from a backup, or from the "
            "recipe.yaml of the last checkpoint in checkpoints."
        )


def kind_in(summary: Path, *, training: bool, begun: bool) -> str | None:
    """The kind of run in a directory; `None` if it ended before that was recorded.

    **Arguments:**

    - `summary`: its file, which may be missing or damaged.
    - `training`: whether there are files that only training writes.
    - `begun`: whether there is more than a configuration.
    """
    try:
        values = dict(json.loads(summary.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        values = {}
    # Directories of older versions: only training writes these files and this key.
    if "accuracy_before" in values or training:
        return values.get("kind", "training")
    return values.get("kind", "evaluation" if begun else None)
