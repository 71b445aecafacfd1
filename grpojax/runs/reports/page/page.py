"""One self-contained HTML page; its content security policy blocks all requests."""

import base64
import dataclasses
import hashlib
import html
import json
import math
import string
from collections.abc import Sequence
from importlib import resources

from jinja2.utils import htmlsafe_json_dumps

from ...io.jsonl import Record
from ...io.records import Sample
from ..panels.panels import Panel, Values
from ..read.run import Run
from ..text.markdown import to_html


MAX_POINTS = 2000  # Of a curve; more cannot be distinguished.
MAX_CHARACTERS = 6_000_000  # Of the completions in a page, as JSON.
_SCRIPTS = ("elements.js", "curves.js", "completions.js")


def page(
    runs: Sequence[Run],
    overview: str,
    appendix: str,
    panels: Sequence[Panel],
    *,
    improved: bool = False,
) -> str:
    """Renders the page.

    **Arguments:**

    - `runs`: their completions are embedded, as many as a browser can handle.
    - `overview`, `appendix`: the Markdown above the curves, and below the completions.
    - `panels`: the curves.
    - `improved`: whether the overview reports a success, which is shown in green.
    """
    style = asset("page.css")
    # One script element, so that one hash allows it.
    script = "\n".join(map(asset, _SCRIPTS))
    size = MAX_CHARACTERS // len(runs)
    data = {
        "panels": [_panel(panel) for panel in panels],
        "completions": [row for run in runs for row in page_rows(run, size)],
        "logged": sum(len(run.completions) for run in runs),
    }
    return string.Template(asset("page.html")).substitute(
        # The browser refuses requests, and every script and style but these two.
        policy=(
            f"default-src 'none'; script-src '{_hash(script)}'; "
            f"style-src '{_hash(style)}'; base-uri 'none'; form-action 'none'"
        ),
        title=html.escape(f"{', '.join(run.name for run in runs)}: report"),
        style=style,
        script=script,
        outcome="improved" if improved else "",
        overview=to_html(overview),
        appendix=to_html(appendix),
        # No text in it can close the script element.
        data=htmlsafe_json_dumps(data, allow_nan=False, separators=(",", ":")),
    )


def asset(name: str) -> str:
    """The text of a file of this folder."""
    return (resources.files("grpojax.runs.reports.page") / name).read_text(
        encoding="utf-8"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _panel(panel: Panel) -> Record:
    """A panel as JSON, with as many points as can be distinguished."""
    every = -(-max(len(curve.steps) for curve in panel.curves) // MAX_POINTS)
    note = panel.note
    if every > 1:
        note = f"{note} One of {every} steps is drawn.".strip()
    curves = [
        {
            **dataclasses.asdict(curve),
            "steps": curve.steps[::every],
            "values": _rounded(curve.values[::every]),
            "low": None if curve.low is None else _rounded(curve.low[::every]),
            "high": None if curve.high is None else _rounded(curve.high[::every]),
        }
        for curve in panel.curves
    ]
    return {**dataclasses.asdict(panel), "note": note, "curves": curves}


def page_rows(run: Run, characters: int = MAX_CHARACTERS) -> list[Record]:
    """A run's logged prompts with their completions, evenly downsampled.

    **Arguments:**

    - `characters`: about how many the rows may have as JSON.
    """
    rows: list[Record] = [
        {
            "run": run.name,
            "step": group.step,
            "prompt": group.prompt,
            "samples": [_sample(sample) for sample in group.samples],
        }
        for group in run.completions
    ]
    size = sum(len(json.dumps(row)) for row in rows)
    return rows[:: max(1, math.ceil(size / characters))]


def _sample(sample: Sample) -> Record:
    total, advantage = _rounded([sample.total, sample.advantage], digits=5)
    rewards = _rounded(list(sample.rewards.values()), digits=5)
    return {
        **dataclasses.asdict(sample),
        "correct": sample.correct,
        "log_prob": _rounded(sample.log_prob, digits=5),
        "rewards": dict(zip(sample.rewards, rewards, strict=True)),
        "total": total,
        "advantage": advantage,
    }


def _rounded(values: Values, digits: int = 6) -> Values:
    """Numbers with so many significant digits."""
    return [None if x is None else float(f"{x:.{digits}g}") for x in values]
