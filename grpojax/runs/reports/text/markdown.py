"""Markdown from templates, and HTML from Markdown; no value in them becomes markup.

In a template, a line that is indented by two spaces continues the line above, and a
section without content is left out.
"""

import re
import shlex
import statistics

import jinja2
from markdown_it import MarkdownIt

from ...io.terminal import printable
from .numbers import amount, gap, percent, setting_text


class Markdown(str):
    """Text that is markup already; templates escape every other value."""


# Characters that can begin markup: HTML, emphasis, links, code, table cells.
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~&$])")


def escape(value: object) -> Markdown:
    """A value as one line of text."""
    if isinstance(value, Markdown):
        return value
    text = printable(str(value)).replace("\n", " ")
    return Markdown(_SPECIAL.sub(r"\\\1", text))


def code(text: str) -> Markdown:
    """Inline code; its fence is longer than any run of backticks inside."""
    text = printable(text)
    runs = re.findall("`+", text)
    fence, space = "`" * (max(map(len, runs), default=0) + 1), " " if runs else ""
    return Markdown(f"{fence}{space}{text}{space}{fence}".replace("\n", " "))


def code_cell(text: str) -> Markdown:
    """Inline code in a table, where a bar would end the cell."""
    return Markdown(re.sub(r"(?<!\\)\|", r"\\|", code(text)))


def with_code(text: str) -> Markdown:
    """Text whose parts between backticks are code."""
    parts = enumerate(text.split("`"))
    return Markdown("".join(code(x) if i % 2 else escape(x) for i, x in parts))


def verbatim(text: str) -> Markdown:
    """Preformatted text."""
    return Markdown("\n".join(f"    {line}" for line in printable(text).splitlines()))


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("grpojax.runs.reports.text", "."),
    finalize=escape,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "code": code,
    "code_cell": code_cell,
    "markup": Markdown,
    "mean": statistics.fmean,
    "percent": percent,
    "amount": amount,
    "gap": gap,
    "setting": setting_text,
    "shell": shlex.quote,
    "verbatim": verbatim,
    "with_code": with_code,
}


def render(template: str, **values: object) -> str:
    """A template of this folder as Markdown, in which `values` are text."""
    text = _TEMPLATES.get_template(template).render(values)
    text = re.sub(r"\n {2}(?=\S)", " ", text)
    text = re.sub(r"^## .*\n+(?=## |\Z)", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


# What the templates use, and nothing else: no links, images or HTML.
_PARSER = MarkdownIt("zero").enable(
    [
        "heading",
        "blockquote",
        "list",
        "table",
        "code",
        "backticks",
        "emphasis",
        "escape",
    ]
)


def to_html(markdown: str) -> str:
    """Markdown as HTML without inline styles, which the page's policy forbids."""
    html = _PARSER.render(markdown)
    return html.replace(' style="text-align:right"', ' class="number"')
