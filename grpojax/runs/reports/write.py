"""Reports of one run or of several, from their directories."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from ..io.atomic import write_bytes
from .analysis.changes import measure_changes
from .analysis.seeds import group_by_config
from .page.page import page
from .panels.overlay import overlay_panels
from .panels.panels import run_panels
from .panels.svg import MARK, plot
from .read.run import read_run, Run, runs_in
from .text import sections


PLOTS = "report_files"


def write_report(
    runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None
) -> Path:
    """Writes a report of runs: `report.md` with plots, and `report.html`.

    Both contain the configuration, the change of accuracy with its interval, how to
    continue, and the curves; the page, which is one self-contained file, also the
    completions. Several runs are compared, with means over the seeds of each
    configuration. The same runs give the same bytes.

    **Arguments:**

    - `runs`: run directories, finished or not; that of a sweep means its runs.
    - `out`: the directory to write to, with the plots in `report_files/`; `None` for
        that of a single run or sweep.

    **Returns:** the path of `report.md`; `report.html` is beside it.

    **Raises:** `ValueError` for no run, a repeated run, or several without `out`;
    `FileNotFoundError` for a directory that is no run.

    !!! example

        ```python
        write_report(["out/seed-0", "out/seed-1"], out="out/seeds")
        ```
    """
    given = [Path(run) for run in runs]
    paths = [path for run in given for path in runs_in(run)]
    if out is None and len(given) == 1:
        out = given[0]
    if not paths:
        raise ValueError("A report needs a run. Received none: pass a run directory.")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(
            "The runs of a report must differ. Received one directory twice in "
            f"{', '.join(map(str, paths))}: pass each once."
        )
    if out is None and len(paths) > 1:
        raise ValueError(
            "A report of several runs needs a directory of its own. Received "
            f"{len(paths)} runs and no `out`: set it."
        )
    found = [read_run(path) for path in paths]
    if len({run.name for run in found}) < len(found):
        found = [dataclasses.replace(run, name=str(run.path)) for run in found]
    return _write(found, Path(out or paths[0]))


def _write(runs: Sequence[Run], out: Path) -> Path:
    end, page_end, improved = "", "", False
    if len(runs) == 1:
        (run,) = runs
        changes = measure_changes(run)
        top = sections.overview(run, changes)
        improved = run.complete and any(x.direction > 0 for x in changes.measured[:1])
        panels, missing = run_panels(run)
        end = sections.appendix(run, panels, missing, completions=True)
        page_end = sections.appendix(run, panels, missing, completions=False)
    else:
        groups = group_by_config(runs)
        top, panels = sections.comparison(runs, groups), overlay_panels(groups)
    parts = [top, sections.figures(panels, PLOTS), end]
    text = "\n".join(part for part in parts if part.strip())
    files = {f"{PLOTS}/{panel.name}.svg": plot(panel) for panel in panels}
    files["report.md"] = text.encode("utf-8", "replace")
    html = page(runs, top, page_end, panels, improved=improved)
    files["report.html"] = html.encode("utf-8", "replace")
    (out / PLOTS).mkdir(parents=True, exist_ok=True)
    for old in (out / PLOTS).glob("*.svg"):
        if f"{PLOTS}/{old.name}" not in files and _is_own(old):
            old.unlink()  # Of an earlier report, which this one replaces.
    for name, content in files.items():
        write_bytes(out / name, content)
    return out / "report.md"


def _is_own(plot: Path) -> bool:
    """Whether a report has written a file, and no link leads to it."""
    if plot.is_symlink() or plot.parent.is_symlink() or not plot.is_file():
        return False
    with plot.open("rb") as file:
        return MARK in file.read(2000)
