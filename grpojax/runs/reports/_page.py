"""One HTML page that holds all it needs: no request leaves it."""

import base64
import dataclasses
import hashlib
import html
import json
import string
from collections.abc import Sequence
from importlib import resources

from ._completions import Row
from ._document import Block, to_html
from ._lines import Record
from ._panels import Panel, Values


POINTS = 2000  # Of a curve in a page: more are not to be told apart.


def page(
    title: str,
    overview: Sequence[Block],
    appendix: Sequence[Block],
    panels: Sequence[Panel],
    completions: Sequence[Row],
    logged: int,
) -> str:
    """The whole page.

    **Arguments:**

    - `overview`, `appendix`: what stands above and below the curves and completions.
    - `completions`: the logged prompts that are shown, of `logged` that there are.
    """
    style, script = _asset("page.css"), _asset("page.js")
    data = {
        "panels": [_panel(panel) for panel in panels],
        "completions": [dataclasses.asdict(row) for row in completions],
        "logged": logged,
    }
    return string.Template(_asset("page.html")).substitute(
        # The browser itself refuses requests, and any script or style but these two.
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
    """JSON in which no text can end the element that holds it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _asset(name: str) -> str:
    folder = resources.files("grpojax") / "runs" / "reports"
    return (folder / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _panel(panel: Panel) -> Record:
    longest = max(len(curve.steps) for curve in panel.curves)
    every = -(-longest // POINTS)
    note = panel.note
    if every > 1:
        note = f"{note} One step of {every} is drawn.".strip()
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
                "values": _thin(curve.values, every),
                "low": None if curve.low is None else _thin(curve.low, every),
                "high": None if curve.high is None else _thin(curve.high, every),
                "color": curve.color,
                "faint": curve.faint,
                "dots": curve.dots,
            }
            for curve in panel.curves
        ],
    }


def _thin(values: Values, every: int) -> Values:
    return [None if x is None else float(f"{x:.6g}") for x in values[::every]]
