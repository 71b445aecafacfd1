"""TensorBoard, Weights & Biases and trackio; a package is imported when it is used."""

import contextlib
import functools
import importlib
import importlib.util
import io
import time
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..io.tables import markdown, Row, tabulate
from .cursor import Cursor
from .trackers import FailSafe, Metrics, Tracker, TrackerFactory, TrackerRun


_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}

WandBMode = Literal["off", "offline", "online"]


class TensorBoard:
    """Event files, for `tensorboard --logdir`.

    Of a resumed run, readers drop what was written after the checkpoint (`purge_step`),
    and earlier steps are not written again.
    """

    def __init__(self, run: TrackerRun):
        self._after, self._evaluated = run.resume_step or -1, run.evaluated
        self._writer = _import("tensorboardX").SummaryWriter(
            str(run.directory / "tensorboard"),
            purge_step=run.resume_step + 1,
            # Files are named, and read in order, by the second: by less than that.
            filename_suffix=f".{time.time_ns()}",
        )

    def log(self, step: int, metrics: Metrics) -> None:
        if step > self._after:
            self._write(step, metrics)

    def evaluation(self, name: str, step: int, measures: Metrics) -> None:
        if (name, step) not in self._evaluated:
            self._write(step, _named(name, measures))

    def _write(self, step: int, values: Metrics) -> None:
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        if step > self._after:
            self._writer.add_text(name, markdown(*tabulate(rows)), step)
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Dashboard:
    """A run in Weights & Biases or trackio, which a resumed run continues.

    **Arguments:**

    - `run`: logs values by name, as `wandb.Run` does.
    - `cursor`: only steps after it are logged.
    - `table`: a table of the package, from columns and rows.
    - `finish`: ends the run.
    """

    def __init__(
        self,
        run: Any,
        cursor: Cursor,
        table: Callable[[list[str], list[list]], object],
        finish: Callable[[], object],
    ):
        self._run, self._cursor = run, cursor
        self._table, self._finish = table, finish

    def log(self, step: int, metrics: Metrics) -> None:
        self._log("metrics", step, metrics)

    def evaluation(self, name: str, step: int, measures: Metrics) -> None:
        self._log(f"evaluations/{name}", step, _named(name, measures))

    def _log(self, series: str, step: int, values: Metrics) -> None:
        if self._cursor.is_new(series, step):
            present = {name: x for name, x in values.items() if x is not None}
            self._run.log(present, step=step)
            self._cursor.advance(series, step)

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        if self._cursor.is_new(name, step):
            self._run.log({name: self._table(*tabulate(rows))}, step=step)
            self._cursor.advance(name, step)

    def close(self) -> None:
        self._finish()
        self._cursor.close()


def _named(evaluation: str, measures: Metrics) -> Metrics:
    """Measures by the names under which they are shown."""
    return {f"evaluations/{evaluation}/{name}": x for name, x in measures.items()}


def open_wandb(
    run: TrackerRun,
    *,
    project: str = "grpojax",
    name: str | None = None,
    offline: bool = False,
) -> Dashboard:
    """A Weights & Biases run; the arguments are those of `factories`."""
    wandb = _import("wandb")
    directory = run.directory / "wandb"
    cursor = Cursor(directory / "wandb.json")
    opened = wandb.init(
        project=project,
        name=name or run.name,
        config=dict(run.config),
        id=cursor.id,
        resume="allow",
        dir=str(directory),
        mode="offline" if offline else "online",
        settings=wandb.Settings(silent=True, console="off"),
    )
    table = lambda columns, rows: wandb.Table(columns=columns, data=rows)
    return Dashboard(opened, cursor, table, opened.finish)


def open_trackio(
    run: TrackerRun, *, project: str = "grpojax", name: str | None = None
) -> Dashboard:
    """A local trackio run, in `TRACKIO_DIR`; the arguments are those of `factories`."""
    trackio = _import("trackio")
    cursor = Cursor(run.directory / "trackio" / "trackio.json")
    opened = _quietly(
        trackio.init,
        project=project,
        name=f"{name or run.name}-{cursor.id}",
        config=dict(run.config),
        resume="allow",
        embed=False,
    )
    table = lambda columns, rows: trackio.Markdown(markdown(columns, rows))
    return Dashboard(opened, cursor, table, lambda: _quietly(trackio.finish))


def _quietly(call: Callable, **options: object):
    """A call without standard output, on which trackio announces itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        return call(**options)


def factories(
    *,
    tensorboard: bool = False,
    wandb: WandBMode = "off",
    trackio: bool = False,
    project: str = "grpojax",
    name: str | None = None,
) -> dict[str, TrackerFactory]:
    """Factories of the library's trackers.

    **Arguments:**

    - `tensorboard`: whether to write TensorBoard event files.
    - `wandb`: whether to log to Weights & Biases: `"online"`, `"offline"` (files for
        `wandb sync`) or `"off"`.
    - `trackio`: whether to log to trackio.
    - `project`, `name`: the project and run under which W&B and trackio show it; by
        default the name of the run's directory.

    !!! example

        ```python
        grpojax.fit(state, step, steps=10, out=out, trackers=factories(trackio=True))
        ```
    """
    shown = {"project": project, "name": name}
    every: dict[str, tuple[bool, TrackerFactory]] = {
        "tensorboard": (tensorboard, TensorBoard),
        "wandb": (
            wandb != "off",
            functools.partial(open_wandb, offline=wandb == "offline", **shown),
        ),
        "trackio": (trackio, functools.partial(open_trackio, **shown)),
    }
    return {kind: factory for kind, (wanted, factory) in every.items() if wanted}


def start(
    factories: Mapping[str, TrackerFactory],
    run: TrackerRun,
    warn: Callable[[str], None],
) -> list[Tracker]:
    """Starts trackers, none of which can stop the run; see `FailSafe`."""
    return [
        FailSafe(name, functools.partial(factory, run), warn)
        for name, factory in factories.items()
    ]


def check(directory: Path | None, names: Collection[str]) -> None:
    """Checks that the library's trackers of these names can be built; builds nothing.

    **Raises:** `ImportError` for a package that is not installed, `ValueError` for a
    tracker of a run without a directory, which keeps the tracker's position.
    """
    for name in names:
        if directory is None:
            raise ValueError(
                "A tracker keeps its position in the run's directory. Received "
                f"{name} without one: name it with --out, or leave the tracker off."
            )
        package = _PACKAGES[name]
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"`tracking.{name}` needs the package {package}, which is not "
                "installed: `pip install 'grpojax[tracking]'`, or switch it off."
            )


def _import(package: str) -> types.ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"A tracker needs the package {package}, which is not installed: "
            "`pip install 'grpojax[tracking]'`, or do without it.",
            name=package,
        ) from error
