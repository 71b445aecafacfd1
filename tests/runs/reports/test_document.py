"""No text in a report becomes markup."""

import html.parser
import types

import markdown_it
from hypothesis import given, settings, strategies as st

from grpojax.runs.reports.text.markdown import (
    code,
    code_cell,
    escape,
    render,
    to_html,
    verbatim,
)


HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "| a | b |",
    "```\n# not a heading",
    "`one` and ``two``",
    "[link](http://example.com) ![picture](http://example.com/x.png)",
    "*stars* _lines_ ~~strike~~ $x$ &lt;",
)
TEXT = st.one_of(
    st.sampled_from(HOSTILE), st.text("ab|`<>*_&[]()!\n\\ #-", max_size=20)
)


class Seen(html.parser.HTMLParser):
    """The tags and the text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), ""

    def handle_starttag(self, tag, attrs):
        del attrs
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def document(text):
    parts = [
        f"## {escape(text)}",
        f"x {escape(text)} **{escape(text)}**",
        f"> x {code(text)}",
        f"- x {escape(text)}",
        f"| name | value |\n| --- | ---: |\n| {escape(text)} | {code_cell(text)} |",
        verbatim(text),
    ]
    return "\n\n".join(parts)


def seen(page):
    found = Seen()
    found.feed(page)
    return found


def squeezed(text):
    return "".join(text.split())


@settings(max_examples=60, deadline=None)
@given(TEXT)
def test_html_shows_any_text_as_text(text):
    found = seen(to_html(document(text)))
    allowed = "h2 p strong blockquote code ul li table thead tbody tr th td pre"
    assert found.tags <= set(allowed.split())
    assert squeezed(found.text).count(squeezed(text)) >= 6


@settings(max_examples=60, deadline=None)
@given(TEXT)
def test_markdown_shows_any_text_as_text(text):
    parser = markdown_it.MarkdownIt("gfm-like", {"linkify": False})
    rendered = parser.render(document(text))
    assert not seen(rendered).tags & {"script", "img", "a", "em", "s", "h1"}
    assert rendered.count("<tr") == 2 and rendered.count("<td") == 2


@settings(max_examples=60, deadline=None)
@given(TEXT)
def test_a_template_shows_its_values_as_text(text):
    panel = types.SimpleNamespace(section=text, title="x", note=f"x {text}", name="x")
    rendered = render("figures.md", panels=[panel], folder="plots")
    assert rendered.startswith(f"## {escape(text)}".rstrip("\n"))
    parser = markdown_it.MarkdownIt("gfm-like", {"linkify": False})
    tags = seen(parser.render(rendered)).tags
    assert tags <= {"h2", "p", "img", "code", "pre"} and "img" in tags
