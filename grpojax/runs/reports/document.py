"""Blocks of text, rendered as Markdown or as HTML; both escape every text."""

import dataclasses
import html
import re
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Code:
    """Inline code: a name, a key or a value."""

    text: str


@dataclasses.dataclass(frozen=True)
class Strong:
    """Bold text."""

    text: str


Inline = str | Code | Strong
Line = Sequence[Inline] | str
"""A text, or its parts, which may contain any character: rendering escapes it."""


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading of level 1, 2 or 3."""

    level: int
    text: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """A paragraph of one line of text."""

    line: Line


@dataclasses.dataclass(frozen=True)
class Callout:
    """A highlighted box; `kind` is "alarm", "good" or "plain"."""

    kind: str
    lines: Sequence[Line]


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A bulleted list."""

    lines: Sequence[Line]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a header; all but the first `texts` columns are aligned as numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[Line]]
    texts: int = 1


@dataclasses.dataclass(frozen=True)
class Verbatim:
    """Preformatted text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Figure:
    """An image file beside the report; only Markdown shows it."""

    path: str
    title: str


Block = Heading | Paragraph | Callout | Bullets | Table | Verbatim | Figure


def to_markdown(blocks: Sequence[Block]) -> str:
    """Renders blocks as Markdown; no text in them becomes markup."""
    return "\n\n".join(map(_markdown_block, blocks)) + "\n"


def to_html(blocks: Sequence[Block]) -> str:
    """Renders blocks as HTML, without figures; no text in them becomes markup."""
    return "\n".join(
        _html_block(block) for block in blocks if not isinstance(block, Figure)
    )


# Characters that can begin markup: HTML, emphasis, links, code, table cells.
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&$])")


def _markdown(line: Line) -> str:
    return "".join(
        map(_markdown_inline, [line] if isinstance(line, str) else line)
    ).replace("\n", " ")


def _markdown_inline(part: Inline) -> str:
    if isinstance(part, Code):
        # A fence longer than any run of backticks inside.
        runs = re.findall("`+", part.text)
        fence = "`" * (max(map(len, runs), default=0) + 1)
        space = " " if runs else ""
        return f"{fence}{space}{part.text}{space}{fence}"
    if isinstance(part, Strong):
        return f"**{_escape(part.text)}**"
    return _escape(part)


def _escape(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def _cell(line: Line) -> str:
    # A bar ends the cell, even inside code.
    return re.sub(r"(?<!\\)\|", r"\\|", _markdown(line))


def _markdown_block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_markdown(text)}"
        case Paragraph(line):
            return _markdown(line)
        case Callout(_, lines):
            return "\n>\n".join(f"> {_markdown(line)}" for line in lines)
        case Bullets(lines):
            return "\n".join(f"- {_markdown(line)}" for line in lines)
        case Table(header, rows, texts):
            rule = ["---" if i < texts else "---:" for i in range(len(header))]
            cells = [list(map(_cell, row)) for row in [header, *rows]]
            return "\n".join(
                f"| {' | '.join(row)} |" for row in [cells[0], rule, *cells[1:]]
            )
        case Verbatim(text):
            return "\n".join(f"    {line}" for line in text.splitlines())
        case Figure(path, title):
            return f"![{_markdown(title)}]({path})"


def _html(line: Line) -> str:
    return "".join(map(_html_inline, [line] if isinstance(line, str) else line))


def _html_inline(part: Inline) -> str:
    if isinstance(part, Code):
        return f"<code>{html.escape(part.text)}</code>"
    if isinstance(part, Strong):
        return f"<strong>{html.escape(part.text)}</strong>"
    return html.escape(part)


def _html_block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{_html(text)}</h{level}>"
        case Paragraph(line):
            return f"<p>{_html(line)}</p>"
        case Callout(kind, lines):
            inner = "".join(f"<p>{_html(line)}</p>" for line in lines)
            return f'<div class="callout {html.escape(kind)}">{inner}</div>'
        case Bullets(lines):
            inner = "".join(f"<li>{_html(line)}</li>" for line in lines)
            return f"<ul>{inner}</ul>"
        case Table(header, rows, texts):
            return _html_table(header, rows, texts)
        case Verbatim(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Figure():
            return ""


def _html_table(
    header: Sequence[str], rows: Sequence[Sequence[Line]], texts: int
) -> str:
    number = ' class="number"'

    def cells(tag: str, row: Sequence[Line]) -> str:
        return "".join(
            f"<{tag}{'' if column < texts else number}>{_html(cell)}</{tag}>"
            for column, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", header)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
