"""How far a tracker got, across interruptions."""

import collections
import json
import time
import uuid
from pathlib import Path

from ..io.atomic import write_json


# W&B's offline files are written every 15 seconds, and a kill loses what was not.
_SETTLED = 30.0


class Place:
    """A tracker's identity and how far it got, across interruptions.

    A step counts as arrived half a minute after it was given, or at `close`: what a
    killed process had given just before is given again, rather than lost.
    """

    def __init__(self, path: Path):
        self._path = path
        values = json.loads(path.read_bytes()) if path.exists() else {}
        self.id: str = values.get("id", uuid.uuid4().hex[:8])
        self._arrived: dict[str, int] = values.get("steps", {})
        self._given = dict(self._arrived)
        self._recent: collections.deque[tuple[float, str, int]] = collections.deque()
        self._save()

    def is_new(self, name: str, step: int) -> bool:
        """Whether a series was not given that step, nor a later one."""
        return step > self._given.get(name, -1)

    def reached(self, name: str, step: int) -> None:
        """Remembers that it was."""
        now = time.monotonic()
        self._given[name] = step
        self._recent.append((now, name, step))
        if self._recent[0][0] < now - _SETTLED:
            while self._recent and self._recent[0][0] < now - _SETTLED:
                _, name, step = self._recent.popleft()
                self._arrived[name] = step
            self._save()

    def close(self) -> None:
        """Remembers that everything has arrived."""
        self._arrived = dict(self._given)
        self._save()

    def _save(self) -> None:
        write_json(self._path, {"id": self.id, "steps": self._arrived})
