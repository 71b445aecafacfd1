"""Checks of a run's directory before anything is computed or written there."""

import errno
import json
import os
from pathlib import Path
from typing import Literal

import yaml


Kind = Literal["training", "evaluation"]

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
COMPLETIONS = "completions.jsonl"
EVALUATIONS = "evaluations.jsonl"
EVENTS = "events.jsonl"
SUMMARY = "summary.json"
PREDICTIONS = "predictions"
CHECKPOINTS = "checkpoints"
CURVE = "curve.png"
MODEL = "model"
ADAPTER = "adapter"

_OF_TRAINING = (METRICS, COMPLETIONS, EVENTS, CHECKPOINTS, CURVE, MODEL, ADAPTER)
_NAMES = (CONFIG, SUMMARY, EVALUATIONS, PREDICTIONS, *_OF_TRAINING)

# Orbax joins directories into glob patterns when it merges what the processes wrote,
# and takes a backslash for a separator: a checkpoint below `lr[1e-4]` would have no
# arrays, and one below `run?` might have those of `run1`.
_UNSUPPORTED = "*?[\\"


def check_characters(path: str | os.PathLike[str]) -> None:
    r"""Checks that checkpoints below a path can be read back.

    **Raises:** `ValueError` if the absolute path contains one of `*`, `?`, `[`, `\`.
    """
    absolute = os.fspath(Path(path).absolute())
    found = [character for character in _UNSUPPORTED if character in absolute]
    if found:
        raise ValueError(
            "Checkpoints cannot be read back from a path with a glob character or a "
            f"backslash. Received {absolute!r}, which contains {' '.join(found)}: "
            "choose another name, such as lr-1e-4 for lr[1e-4]."
        )


def check_writable(path: Path) -> None:
    """Checks that a directory is writable, or can be created.

    **Raises:** `PermissionError` that names the directory.
    """
    parents = [path, *path.absolute().parents]
    existing = next(parent for parent in parents if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(
            errno.EACCES,
            f"A run must be able to write. {os.fspath(existing)!r} is read-only: "
            "change its permissions, or choose another directory.",
        )


def inspect(path: Path, *, resume: bool, kind: Kind) -> bytes:
    """Checks that a directory is free for a new run, or holds the run to resume.

    **Arguments:**

    - `path`, `resume`, `kind`: as in `RunDirectory`.

    **Returns:** the content of `config.yaml`; empty for a new run.

    **Raises:** as `RunDirectory`.
    """
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(
            f"A run is written to a directory. {os.fspath(path)!r} is a file: choose "
            "another name."
        )
    found = [name for name in _NAMES if (path / name).exists()]
    if not resume:
        if found:
            raise FileExistsError(
                f"A run never overwrites another. {os.fspath(path)!r} holds "
                f"{', '.join(found)} already: resume it, choose another directory, or "
                "move that one away."
            )
        return b""
    if CONFIG not in found:
        raise FileNotFoundError(
            f"A run that is resumed has been started. {os.fspath(path)!r} holds no "
            f"{CONFIG}: check the path, or start a run there."
        )
    held = _kind(path, found)
    if held not in (None, kind):
        raise ValueError(
            f"A directory holds one kind of run. {os.fspath(path)!r} holds one of kind "
            f"{held!r}. Received {kind!r}: choose another directory for it."
        )
    config = (path / CONFIG).read_bytes()
    _check_config(config, path / CONFIG)
    return config


def _kind(path: Path, found: list[str]) -> str | None:
    """The kind of run in a directory; `None` if it ended before that was recorded."""
    try:
        summary = dict(json.loads((path / SUMMARY).read_bytes()))
    except (OSError, ValueError, TypeError):
        summary = {}
    if "kind" in summary:
        return summary["kind"]
    # Directories of older versions: only training writes these files and this key.
    if "accuracy_before" in summary or not set(_OF_TRAINING).isdisjoint(found):
        return "training"
    return "evaluation" if len(found) > 1 else None


def _check_config(config: bytes, path: Path) -> None:
    try:
        values = yaml.safe_load(config)
        problem = None if isinstance(values, dict) else "not a YAML mapping"
    except (UnicodeDecodeError, yaml.YAMLError):
        problem = "not YAML"
    if problem is not None or not config.strip():
        raise ValueError(
            "A run is resumed with the configuration that it was started with. "
            f"{os.fspath(path)!r} is {problem if config.strip() else 'empty'}: restore "
            "it from a backup, or from the recipe.yaml of the last checkpoint in "
            f"{CHECKPOINTS}."
        )
