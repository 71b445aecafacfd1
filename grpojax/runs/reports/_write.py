"""A report of one run, or of several, from their directories alone."""

import os
from collections.abc import Sequence
from pathlib import Path

from ._compare import comparison, labels
from ._completions import CHARACTERS, rows_of, samples_of
from ._document import (
    Block,
    Bullets,
    Figure,
    Heading,
    Line,
    Paragraph,
    Table,
    to_markdown,
)
from ._overlay import compared_panels
from ._overview import overview
from ._page import page
from ._panels import Panel, panels_of
from ._plots import plot
from ._read import read_run, Run
from ._recipe import recipe


def write_report(
    runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None
) -> Path:
    """Writes what runs have come to: `report.md` with plots, and `report.html`.

    Both say the same: what was trained on what, whether it worked and how sure that is,
    how to continue, and the curves. The page needs nothing but itself, and shows the
    completions too. Several runs are compared: those of one recipe over their seeds.
    The same runs give the same bytes.

    **Arguments:**

    - `runs`: their directories, whatever state they are in.
    - `out`: where to write, beside `report_files/` for the plots; a single run's own
        directory when `None`.

    **Returns:** the path of `report.md`; `report.html` is beside it.

    **Raises:** `ValueError` for no run, one run twice, or several without `out`;
    `FileNotFoundError` for what is no run.

    !!! example

        ```python
        write_report(["out/seed-0", "out/seed-1"], out="out/seeds")
        ```
    """
    paths = [Path(run) for run in runs]
    if not paths:
        raise ValueError("A report needs a run. Received none: name a directory.")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(
            "A run compared with itself shows nothing. Received one directory twice in "
            f"{', '.join(map(str, paths))}: name each once."
        )
    if out is None and len(paths) > 1:
        raise ValueError(
            "A report of several runs belongs to none of them. Received "
            f"{len(paths)} runs and no `out`: say where to write it."
        )
    found = [read_run(path) for path in paths]
    return _write(found, paths[0] if out is None else Path(out))


def _write(runs: Sequence[Run], out: Path) -> Path:
    if len(runs) == 1:
        top, end = overview(runs[0]), recipe(runs[0])
        panels, absent = panels_of(runs[0])
        shown, numbers = samples_of(runs[0]), [*_numbers(panels), *_absent(absent)]
    else:
        top, panels = comparison(runs), compared_panels(runs)
        end, shown, numbers = [], [], []
    names = labels(runs)
    share = CHARACTERS // len(runs)
    rows = [
        row
        for run, name in zip(runs, names, strict=True)
        for row in rows_of(run, name, characters=share)
    ]
    title = f"{', '.join(names)}: report"
    logged = sum(len(run.completions) for run in runs)
    files = {f"report_files/{panel.name}.svg": plot(panel) for panel in panels}
    markdown = to_markdown([*top, *_figures(panels), *numbers, *shown, *end])
    files["report.md"] = markdown.encode("utf-8", "replace")
    html = page(title, top, [*numbers, *end], panels, rows, logged)
    files["report.html"] = html.encode("utf-8", "replace")
    (out / "report_files").mkdir(parents=True, exist_ok=True)
    for old in (out / "report_files").glob("*.svg"):
        if f"report_files/{old.name}" not in files:
            old.unlink()  # Of an earlier report, which this one replaces.
    for name, content in files.items():
        _replace(out / name, content)
    return out / "report.md"


def _figures(panels: Sequence[Panel]) -> list[Block]:
    blocks: list[Block] = []
    section = None
    for panel in panels:
        if panel.section != section:
            section = panel.section
            blocks.append(Heading(2, section))
        blocks.append(Figure(f"report_files/{panel.name}.svg", panel.title))
        if panel.note:
            blocks.append(Paragraph(panel.note))
    return blocks


def _numbers(panels: Sequence[Panel]) -> list[Block]:
    """The ends and extremes of every curve, for who cannot point at one."""
    rows: list[list[Line]] = []
    for panel in panels:
        for curve in panel.curves:
            values = [x for x in curve.values if x is not None]
            if values:
                ends = (values[0], values[-1], min(values), max(values))
                cells = [f"{x:.6g}" for x in ends]
                rows.append([panel.title, curve.label, *cells, f"{len(values):,}"])
    header = ["panel", "curve", "first", "last", "smallest", "largest", "steps"]
    return [Heading(2, "Numbers"), Table(header, rows, texts=2)] if rows else []


def _absent(titles: Sequence[str]) -> list[Block]:
    if not titles:
        return []
    lines: list[Line] = [", ".join(titles) + "."]
    return [Heading(2, "Not recorded"), Bullets(lines)]


def _replace(path: Path, content: bytes) -> None:
    """Whole or not at all: no reader ever sees half of a report."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)
