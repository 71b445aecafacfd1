"""Where metrics go: to a run's directory always, and to trackers on request.

What `metrics.jsonl` holds is the run's record; a tracker is for looking at it, and may
fail. Each one is imported when it is asked for.

A resumed run gives a tracker every record of `metrics.jsonl` anew, from the first: each
takes those that it lacks.
"""

import contextlib
import importlib
import io
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..io.run_directory import RunDirectory
from ..io.tables import markdown, Row, tabulate as tabulate
from .cursor import Place


Metrics = Mapping[str, float | None]


@runtime_checkable
class Sink(Protocol):
    """Takes what a run has to say."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Takes a step's metrics; `None` is a value that there is not."""
        ...

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        """Takes a table, such as `completions`: see `tabulate`."""
        ...

    def close(self) -> None:
        """Brings everything to its place."""
        ...


class JsonLines:
    """`metrics.jsonl`, and `completions.jsonl` for the table of that name."""

    def __init__(self, directory: RunDirectory):
        self._directory = directory

    def log(self, step: int, metrics: Metrics) -> None:
        self._directory.log({"step": step, **metrics})

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        if name != "completions":
            raise ValueError(
                "A run's directory has one table. Received "
                f"{name!r}: call it 'completions'."
            )
        self._directory.log_completions(*({"step": step, **row} for row in rows))

    def close(self) -> None:
        """Every line is on the disk already."""


class TensorBoard:
    """Event files, for `tensorboard --logdir`.

    **Arguments:**

    - `directory`: where they go.
    - `after`: the step that a resumed run goes on from: what was written of later steps
        is left out by readers, and earlier ones are not taken again.
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
    """A run of Weights & Biases, which a resumed run continues.

    **Arguments:**

    - `directory`: where its files go, and `wandb.json`: the run's id, and the last step
        that arrived. Later steps alone are passed on.
    - `project`, `name`: what it is found under.
    - `config`: the recipe, as nested mappings.
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
        self._place = Place(directory / "wandb.json")
        self._run = self._module.init(
            project=project,
            name=name,
            config=dict(config or {}),
            id=self._place.id,
            resume="allow",
            dir=str(directory),
            mode="offline" if offline else "online",
            settings=self._module.Settings(silent=True, console="off"),
        )

    def log(self, step: int, metrics: Metrics) -> None:
        if self._place.is_new("metrics", step):
            self._run.log(_present(metrics), step=step)
            self._place.reached("metrics", step)

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        if self._place.is_new(name, step):
            columns, data = tabulate(rows)
            table = self._module.Table(columns=columns, data=data)
            self._run.log({name: table}, step=step)
            self._place.reached(name, step)

    def close(self) -> None:
        self._run.finish()
        self._place.close()


class Trackio:
    """A run of trackio, on this machine, which a resumed run continues.

    **Arguments:**

    - `directory`: where `trackio.json` goes: the run's name, and the last step that it
        was given. Later steps alone are passed on. Values go to trackio's own place.
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
        self._place = Place(directory / "trackio.json")
        with _quiet():
            self._run = self._module.init(
                project=project,
                name=self._place.id if name is None else f"{name}-{self._place.id}",
                config=dict(config or {}),
                resume="allow",
                embed=False,
            )

    def log(self, step: int, metrics: Metrics) -> None:
        if self._place.is_new("metrics", step):
            self._run.log(_present(metrics), step=step)
            self._place.reached("metrics", step)

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        if self._place.is_new(name, step):
            text = markdown(*tabulate(rows))
            self._run.log({name: self._module.Markdown(text)}, step=step)
            self._place.reached(name, step)

    def close(self) -> None:
        with _quiet():
            self._module.finish()
        self._place.close()


class Guarded:
    """A sink that never stops a run: when it fails, that is said once, and it is left.

    **Arguments:**

    - `name`: what it is called.
    - `make`: makes it. A library that is not installed is no failure of this kind:
        `ModuleNotFoundError` is raised.
    - `warn`: is given a sentence.
    """

    def __init__(
        self, name: str, make: Callable[[], Sink], warn: Callable[[str], None]
    ):
        self._name = name
        self._warn = warn
        self._sink: Sink | None = None
        with self._left_if_it_fails():
            self._sink = make()

    def log(self, step: int, metrics: Metrics) -> None:
        with self._left_if_it_fails():
            if self._sink is not None:
                self._sink.log(step, metrics)

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        with self._left_if_it_fails():
            if self._sink is not None:
                self._sink.table(name, step, rows)

    def close(self) -> None:
        with self._left_if_it_fails():
            if self._sink is not None:
                self._sink.close()

    @contextlib.contextmanager
    def _left_if_it_fails(self):
        try:
            yield
        except ModuleNotFoundError:
            raise
        except Exception as error:
            self._sink = None
            self._warn(
                f"{self._name} failed and is left out from here on; metrics.jsonl has "
                f"everything. {type(error).__name__}: {error}"
            )


def _present(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


def _quiet():
    """Trackio says on the terminal where it writes."""
    return contextlib.redirect_stdout(io.StringIO())


def _module(name: str, sink: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"Logging to {sink} needs the package {name}, which is not installed: "
            "`pip install 'grpojax[tracking]'`, or do without it.",
            name=name,
        ) from error
