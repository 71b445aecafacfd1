"""One self-contained HTML page; its content security policy blocks all requests."""

import base64
import hashlib
import html
import json
import string
from collections.abc import Sequence
from importlib import resources

from ...io.jsonl import Record
from ..document import Block, to_html
from ..panels import Panel


MAX_POINTS = 2000  # Of a curve; more cannot be distinguished.
_SCRIPTS = ("elements.js", "curves.js", "completions.js")


def page(
    title: str,
    overview: Sequence[Block],
    appendix: Sequence[Block],
    panels: Sequence[Panel],
    completions: Sequence[Record],
    logged: int,
) -> str:
    """Renders the page.

    **Arguments:**

    - `title`: of the document.
    - `overview`, `appendix`: the text above the curves, and below the completions.
    - `panels`: the curves.
    - `completions`: the embedded prompts with their completions; see `page_rows`.
    - `logged`: how many prompts were logged.
    """
    style = _asset("page.css")
    # One script element, so that one hash allows it.
    script = "\n".join(map(_asset, _SCRIPTS))
    data = {
        "panels": [_panel(panel) for panel in panels],
        "completions": list(completions),
        "logged": logged,
    }
    return string.Template(_asset("page.html")).substitute(
        # The browser refuses requests, and every script and style but these two.
        policy=(
            f"default-src 'none'; script-src '{_hash(script)}'; "
            f"style-src '{_hash(style)}'; base-uri 'none'; form-action 'none'"
        ),
        title=html.escape(title),
        style=style,
        script=script,
        overview=to_html(overview),
        appendix=to_html(appendix),
        data=_embed(data),
    )


def _embed(data: object) -> str:
    """JSON for a script element, which no text in it can close."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _asset(name: str) -> str:
    return (resources.files("grpojax.runs.reports.page") / name).read_text(
        encoding="utf-8"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _panel(panel: Panel) -> Record:
    longest = max(len(curve.steps) for curve in panel.curves)
    every = -(-longest // MAX_POINTS)
    note = panel.note
    if every > 1:
        note = f"{note} One of {every} steps is drawn.".strip()
    return {
        "section": panel.section,
        "name": panel.name,
        "title": panel.title,
        "unit": panel.unit,
        "note": note,
        "curves": [
            {
                "label": curve.label,
                "steps": curve.steps[::every],
                "values": _downsample(curve.values, every),
                "low": None if curve.low is None else _downsample(curve.low, every),
                "high": None if curve.high is None else _downsample(curve.high, every),
                "color": curve.color,
                "faint": curve.faint,
                "dots": curve.dots,
            }
            for curve in panel.curves
        ],
    }


def _downsample(values: Sequence[float | None], every: int) -> list[float | None]:
    return [None if x is None else float(f"{x:.6g}") for x in values[::every]]
