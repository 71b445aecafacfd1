"""A catalogue: one page with a row for each of many runs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import jinja2

from ..io.atomic import write_bytes
from .analysis.changes import Change, measure_changes
from .page.page import asset
from .read.run import read_run, Run
from .text.numbers import amount, gap


class _Row(NamedTuple):
    name: str
    run: Run
    report: str | None
    change: Change | None


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("grpojax.runs.reports.page", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"amount": amount, "gap": gap}


def write_catalogue(
    runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> Path:
    """Writes a page that lists runs: `index.html`.

    A row says how far its run is, and the change of its first evaluation with its
    interval; it links to the run's report, and a folder of several runs to that which
    compares them, where there are any. The page is one self-contained file without
    scripts.

    **Arguments:**

    - `runs`: run directories, finished or not.
    - `out`: the directory of the page.

    **Returns:** the path of `index.html`.

    **Raises:** `FileNotFoundError` for a directory that is no run.

    !!! example

        ```python
        write_catalogue(["out/short/seed-0", "out/short/seed-1"], "out")
        ```
    """
    out = Path(out)
    groups: dict[str, list[_Row]] = {}
    for path in map(Path, runs):
        run = read_run(path)
        measured = measure_changes(run).measured
        row = _Row(run.name, run, _link(path, out), measured[0] if measured else None)
        groups.setdefault(os.path.relpath(path.parent, out), []).append(row)
    folders = [
        (name, _link(out / name, out) if len(rows) > 1 else None, rows)
        for name, rows in groups.items()
    ]
    runs_found = [row.run for rows in groups.values() for row in rows]
    text = _TEMPLATES.get_template("catalogue.html").render(
        title=out.resolve().name,
        style=asset("page.css"),
        folders=folders,
        complete=sum(run.complete for run in runs_found),
        count=len(runs_found),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / "index.html", text.encode("utf-8", "replace"))
    return out / "index.html"


def _link(path: Path, out: Path) -> str | None:
    report = path / "report.html"
    return quote(os.path.relpath(report, out)) if report.is_file() else None
