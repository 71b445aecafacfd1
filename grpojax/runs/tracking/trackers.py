"""Experiment trackers: the run's own `metrics.jsonl`, TensorBoard, W&B and trackio.

`metrics.jsonl` is the run's record; the other trackers display it and may fail. Each
tracker's package is imported when the tracker is made.

A resumed run logs every record of `metrics.jsonl` to a tracker again, from the first:
each tracker skips what it has stored.
"""

import contextlib
import importlib
import io
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..io.run_directory import COMPLETIONS, METRICS, RunDirectory
from ..io.tables import markdown, Row, tabulate as tabulate
from .cursor import Cursor


Metrics = Mapping[str, float | None]


@runtime_checkable
class Tracker(Protocol):
    """A destination of metrics and tables."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Logs a step's metrics; `None` is a missing value."""
        ...

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        """Logs a table, such as `completions`; see `io.tables.tabulate`."""
        ...

    def close(self) -> None:
        """Flushes everything and ends the tracker's run."""
        ...


class JsonLines:
    """`metrics.jsonl`, and `completions.jsonl` for the table `completions`."""

    def __init__(self, directory: RunDirectory):
        self._directory = directory

    def log(self, step: int, metrics: Metrics) -> None:
        self._directory.append(METRICS, {"step": step, **metrics})

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        if name != "completions":
            raise ValueError(
                "A run's directory stores one table, 'completions'. Received "
                f"{name!r}: log it under that name, or to another tracker."
            )
        records = [{"step": step, **row} for row in rows]
        self._directory.append(COMPLETIONS, *records)

    def close(self) -> None:
        """Does nothing: every line is on the disk already."""


class TensorBoard:
    """Event files, for `tensorboard --logdir`.

    **Arguments:**

    - `directory`: where the event files are written.
    - `after`: the step of the checkpoint that is resumed: readers drop what was written
        of later steps (`purge_step`), and earlier steps are not written again. `None`
        for a new run.
    """

    def __init__(self, directory: Path, *, after: int | None = None):
        module = _module("tensorboardX", "TensorBoard")
        self._after = -1 if after is None else after
        self._writer = module.SummaryWriter(
            str(directory),
            purge_step=None if after is None else after + 1,
            # Files are named, and read in order, by the second: by less than that.
            filename_suffix=f".{time.time_ns()}",
        )

    def log(self, step: int, metrics: Metrics) -> None:
        if step > self._after:
            for name, value in metrics.items():
                if value is not None:
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        if step > self._after:
            self._writer.add_text(name, markdown(*tabulate(rows)), step)
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A Weights & Biases run, which a resumed run continues.

    **Arguments:**

    - `directory`: for W&B's files and `wandb.json`, a `Cursor`: only steps after it are
        logged.
    - `project`, `name`: the project and name of the W&B run.
    - `config`: hyperparameters, as nested mappings.
    - `offline`: write files only, for `wandb sync`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        project: str,
        name: str | None = None,
        config: Mapping[str, object] | None = None,
        offline: bool = False,
    ):
        self._module = _module("wandb", "Weights & Biases")
        directory.mkdir(parents=True, exist_ok=True)
        self._cursor = Cursor(directory / "wandb.json")
        self._run = self._module.init(
            project=project,
            name=name,
            config=dict(config or {}),
            id=self._cursor.id,
            resume="allow",
            dir=str(directory),
            mode="offline" if offline else "online",
            settings=self._module.Settings(silent=True, console="off"),
        )

    def log(self, step: int, metrics: Metrics) -> None:
        if self._cursor.is_new("metrics", step):
            self._run.log(_present(metrics), step=step)
            self._cursor.advance("metrics", step)

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        if self._cursor.is_new(name, step):
            columns, data = tabulate(rows)
            table = self._module.Table(columns=columns, data=data)
            self._run.log({name: table}, step=step)
            self._cursor.advance(name, step)

    def close(self) -> None:
        self._run.finish()
        self._cursor.close()


class Trackio:
    """A local trackio run, which a resumed run continues.

    **Arguments:**

    - `directory`: for `trackio.json`, a `Cursor`: only steps after it are logged.
        trackio stores the values in a directory of its own, `TRACKIO_DIR`.
    - `project`, `name`, `config`: as for `WandB`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        project: str,
        name: str | None = None,
        config: Mapping[str, object] | None = None,
    ):
        self._module = _module("trackio", "trackio")
        directory.mkdir(parents=True, exist_ok=True)
        self._cursor = Cursor(directory / "trackio.json")
        with _quiet():
            self._run = self._module.init(
                project=project,
                name=self._cursor.id if name is None else f"{name}-{self._cursor.id}",
                config=dict(config or {}),
                resume="allow",
                embed=False,
            )

    def log(self, step: int, metrics: Metrics) -> None:
        if self._cursor.is_new("metrics", step):
            self._run.log(_present(metrics), step=step)
            self._cursor.advance("metrics", step)

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        if self._cursor.is_new(name, step):
            text = markdown(*tabulate(rows))
            self._run.log({name: self._module.Markdown(text)}, step=step)
            self._cursor.advance(name, step)

    def close(self) -> None:
        with _quiet():
            self._module.finish()
        self._cursor.close()


class FailSafe:
    """A tracker that never stops a run: its first failure warns and disables it.

    **Arguments:**

    - `name`: the tracker's name, for the warning.
    - `make`: builds the tracker.
    - `warn`: called with a sentence.

    **Raises:** `ModuleNotFoundError` if the tracker's package is not installed.

    !!! example

        ```python
        tracker = FailSafe("wandb", lambda: WandB(path, project="p"), logger.warning)
        ```
    """

    def __init__(
        self, name: str, make: Callable[[], Tracker], warn: Callable[[str], None]
    ):
        self._name = name
        self._warn = warn
        self._tracker: Tracker | None = None
        with self._disabled_on_failure():
            self._tracker = make()

    def log(self, step: int, metrics: Metrics) -> None:
        with self._disabled_on_failure():
            if self._tracker is not None:
                self._tracker.log(step, metrics)

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        with self._disabled_on_failure():
            if self._tracker is not None:
                self._tracker.table(name, step, rows)

    def close(self) -> None:
        with self._disabled_on_failure():
            if self._tracker is not None:
                self._tracker.close()

    @contextlib.contextmanager
    def _disabled_on_failure(self):
        try:
            yield
        except ModuleNotFoundError:
            raise
        except Exception as error:
            self._tracker = None
            self._warn(
                f"{self._name} failed and is disabled for the rest of the run; "
                f"metrics.jsonl has everything. {type(error).__name__}: {error}"
            )


def _present(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


def _quiet():
    """A context without standard output, on which trackio announces itself."""
    return contextlib.redirect_stdout(io.StringIO())


def _module(name: str, product: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"Logging to {product} needs the package {name}, which is not installed: "
            "`pip install 'grpojax[tracking]'`, or do without it.",
            name=name,
        ) from error
