"""A cache of texts in a file that is only ever appended to."""

import json
import os
import threading
from pathlib import Path


class Cache:
    """Texts by key, in a file of JSON lines, or nowhere.

    It is read at its first use. Every line is written at once, so that several
    processes may share a file; a line that a kill has cut is not read.
    """

    def __init__(self, path: str | os.PathLike[str] | None):
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._texts: dict[str, str] | None = None

    def get(self, key: str) -> str | None:
        """The text of a key, if it is known."""
        with self._lock:
            return self._known().get(key)

    def add(self, key: str, text: str) -> None:
        """Keeps a text, unless there is no file."""
        if self._path is None:
            return
        line = json.dumps({"key": key, "text": text}).encode() + b"\n"
        with self._lock:
            self._known()[key] = text
            with self._path.open("ab", buffering=0) as file:
                file.write(line)

    def _known(self) -> dict[str, str]:
        if self._texts is None:
            self._texts = {} if self._path is None else _read(self._path)
        return self._texts


def _read(path: Path) -> dict[str, str]:
    """The texts in a file, whose last line may be cut; it is then ended."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return {}
    content, texts = path.read_bytes(), {}
    if content and not content.endswith(b"\n"):
        with path.open("ab", buffering=0) as file:
            file.write(b"\n")
    for line in content.splitlines():
        try:
            entry = json.loads(line)
            texts[str(entry["key"])] = str(entry["text"])
        except (ValueError, LookupError, TypeError):
            continue
    return texts
