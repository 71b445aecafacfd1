"""The curves of a report as figures and as a table."""

from collections.abc import Sequence

from ..document import Block, Bullets, Figure, Heading, Line, Paragraph, Table
from ..panels import Panel


def figures(panels: Sequence[Panel], folder: str) -> list[Block]:
    """A figure for each panel, from SVG files in `folder`, under section headings."""
    blocks: list[Block] = []
    section = None
    for panel in panels:
        if panel.section != section:
            section = panel.section
            blocks.append(Heading(2, section))
        blocks.append(Figure(f"{folder}/{panel.name}.svg", panel.title))
        if panel.note:
            blocks.append(Paragraph(panel.note))
    return blocks


def curve_table(panels: Sequence[Panel]) -> list[Block]:
    """The first, last, smallest and largest value of every curve."""
    rows: list[list[Line]] = []
    for panel in panels:
        for curve in panel.curves:
            values = [x for x in curve.values if x is not None]
            if values:
                extremes = (values[0], values[-1], min(values), max(values))
                cells = [f"{x:.6g}" for x in extremes]
                rows.append([panel.title, curve.label, *cells, f"{len(values):,}"])
    header = ["panel", "curve", "first", "last", "smallest", "largest", "steps"]
    return [Heading(2, "Numbers"), Table(header, rows, texts=2)] if rows else []


def missing_panels(titles: Sequence[str]) -> list[Block]:
    """The titles of panels whose metrics were not recorded."""
    if not titles:
        return []
    lines: list[Line] = [f"{', '.join(titles)}."]
    return [Heading(2, "Not recorded"), Bullets(lines)]
