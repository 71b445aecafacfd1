"""No text in a report becomes markup."""

import html.parser

import markdown_it
from hypothesis import given, settings, strategies as st

from grpojax.runs.reports.document import (
    Bullets,
    Callout,
    Code,
    Heading,
    Paragraph,
    Strong,
    Table,
    to_html,
    to_markdown,
    Verbatim,
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


def blocks(text):
    return [
        Heading(2, text),
        Paragraph(["x ", text, Strong(text)]),
        Callout("plain", [["x ", Code(text)]]),
        Bullets([["x ", text]]),
        Table(["name", "value"], [[text, [Code(text)]]]),
        Verbatim(text),
    ]


@settings(max_examples=60, deadline=None)
@given(TEXT)
def test_html_shows_any_text_as_text(text):
    seen = Seen()
    seen.feed(to_html(blocks(text)))
    allowed = "h2 p strong div code ul li table thead tbody tr th td pre"
    assert seen.tags <= set(allowed.split())
    assert seen.text.count(text) >= 6


@settings(max_examples=60, deadline=None)
@given(TEXT)
def test_markdown_shows_any_text_as_text(text):
    rendered = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(
        to_markdown(blocks(text))
    )
    seen = Seen()
    seen.feed(rendered)
    assert not seen.tags & {"script", "img", "a", "em", "s", "h1"}
    assert rendered.count("<tr") == 2 and rendered.count("<td") == 2
