"""The position of a tracker in the run's steps, kept across interruptions."""

import collections
import json
import time
import uuid
from pathlib import Path

from ..io.atomic import write_json


# W&B flushes its offline files every 15 seconds; a kill loses what it had not flushed.
_SECONDS_TO_FLUSH = 30.0


class Cursor:
    """A tracker's run id, and the last step that it has stored of each series.

    A step counts as stored half a minute after it was logged, or at `close`: what was
    logged just before a kill is logged again rather than lost.

    **Arguments:**

    - `path`: the JSON file that keeps it; created with its directory if missing.

    !!! example

        ```python
        cursor = Cursor(directory / "wandb.json")
        if cursor.is_new("metrics", step):
            run.log(metrics, step=step)
            cursor.advance("metrics", step)
        ```
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        try:
            values = json.loads(path.read_bytes()) if path.exists() else {}
            self.id: str = str(values.get("id", uuid.uuid4().hex[:8]))
            steps = dict(values.get("steps", {})).items()
            self._stored: dict[str, int] = {str(name): int(x) for name, x in steps}
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"The position of a tracker is what it wrote. {str(path)!r} is not "
                f"({error}): delete it, and the tracker starts over as a new run."
            ) from error
        self._logged = dict(self._stored)
        self._recent: collections.deque[tuple[float, str, int]] = collections.deque()
        self._save()

    def is_new(self, name: str, step: int) -> bool:
        """Whether neither `step` nor a later one was logged of the series `name`."""
        return step > self._logged.get(name, -1)

    def advance(self, name: str, step: int) -> None:
        """Records that `step` was logged of the series `name`."""
        now = time.monotonic()
        self._logged[name] = step
        self._recent.append((now, name, step))
        if self._recent[0][0] < now - _SECONDS_TO_FLUSH:
            while self._recent[0][0] < now - _SECONDS_TO_FLUSH:  # Not the one of now.
                _, name, step = self._recent.popleft()
                self._stored[name] = step
            self._save()

    def close(self) -> None:
        """Records that every logged step is stored."""
        self._stored = dict(self._logged)
        self._save()

    def _save(self) -> None:
        write_json(self._path, {"id": self.id, "steps": self._stored})
