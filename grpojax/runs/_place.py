"""How far a tracker got, across interruptions."""

import json
import uuid
from pathlib import Path

from ._writing import write_json


class Place:
    """A tracker's identity and how far it got, across interruptions."""

    def __init__(self, path: Path):
        self._path = path
        values = json.loads(path.read_bytes()) if path.exists() else {}
        self.id: str = values.get("id", uuid.uuid4().hex[:8])
        self._steps: dict[str, int] = values.get("steps", {})
        self._save()

    def is_new(self, name: str, step: int) -> bool:
        """Whether a series was not given that step, nor a later one."""
        return step > self._steps.get(name, -1)

    def reached(self, name: str, step: int) -> None:
        """Remembers that it was."""
        self._steps[name] = step
        self._save()

    def _save(self) -> None:
        write_json(self._path, {"id": self.id, "steps": self._steps})
