"""Reports of one run or of several, from their directories."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..io.atomic import write_bytes
from .analysis import run_labels
from .document import to_markdown
from .page import MAX_CHARACTERS, page, page_rows
from .panels import overlay_panels, plot, run_panels
from .read import read_run, Run
from .sections import (
    all_settings,
    comparison,
    curve_table,
    figures,
    last_completions,
    missing_panels,
    overview,
)


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

    - `runs`: run directories, finished or not.
    - `out`: the directory to write to, with the plots in `report_files/`; `None` for
        that of a single run.

    **Returns:** the path of `report.md`; `report.html` is beside it.

    **Raises:** `ValueError` for no run, a repeated run, or several without `out`;
    `FileNotFoundError` for a directory that is no run.

    !!! example

        ```python
        write_report(["out/seed-0", "out/seed-1"], out="out/seeds")
        ```
    """
    paths = [Path(run) for run in runs]
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
    return _write(found, paths[0] if out is None else Path(out))


def _write(runs: Sequence[Run], out: Path) -> Path:
    if len(runs) == 1:
        top, end = overview(runs[0]), all_settings(runs[0])
        panels, missing = run_panels(runs[0])
        samples = last_completions(runs[0])
        numbers = [*curve_table(panels), *missing_panels(missing)]
    else:
        top, panels = comparison(runs), overlay_panels(runs)
        end, samples, numbers = [], [], []
    labels = run_labels(runs)
    rows = [
        row
        for run, label in zip(runs, labels, strict=True)
        for row in page_rows(run, label, characters=MAX_CHARACTERS // len(runs))
    ]
    title = f"{', '.join(labels)}: report"
    logged = sum(len(run.completions) for run in runs)
    files = {f"{PLOTS}/{panel.name}.svg": plot(panel) for panel in panels}
    text = to_markdown([*top, *figures(panels, PLOTS), *numbers, *samples, *end])
    files["report.md"] = text.encode("utf-8", "replace")
    html = page(title, top, [*numbers, *end], panels, rows, logged)
    files["report.html"] = html.encode("utf-8", "replace")
    (out / PLOTS).mkdir(parents=True, exist_ok=True)
    for old in (out / PLOTS).glob("*.svg"):
        if f"{PLOTS}/{old.name}" not in files:
            old.unlink()  # Of an earlier report, which this one replaces.
    for name, content in files.items():
        write_bytes(out / name, content)
    return out / "report.md"
