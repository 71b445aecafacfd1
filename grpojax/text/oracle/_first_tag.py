"""Options and labels in the first pair of a tag, by regular expressions."""

import re

from ._answer import after_thinking


def parse_option(
    text: bytes, tag: str = "answer", *, plain: bool = False
) -> int | None:
    """The number of an option that a text chooses."""
    content = _first_tag(text, tag)
    form = rb"0|[1-9][0-9]*" if plain else rb"(?i:option[ \t\v\f\r]*)?[0-9]+"
    if not re.fullmatch(form, content) or (plain and not _is_only(text, tag)):
        return None
    return min(int(re.sub(rb"[^0-9]", b"", content)), 10**6)


def parse_label(
    text: bytes,
    words: tuple[tuple[str, ...], ...],
    tags: tuple[str, ...],
    *,
    plain: bool = False,
) -> int | None:
    """The index of the label that a text gives."""
    contents = [_first_tag(text, tag) for tag in (tags[:1] if plain else tags)]
    content = next(filter(None, contents), b"")
    if plain and not _is_only(text, tags[0]):
        return None
    written = content if plain else re.sub(rb"[^a-z]", b"", _lower(content))
    for label, each in enumerate(words):
        if written in [word.encode() for word in each]:
            return label
    return None


def _first_tag(text: bytes, tag: str) -> bytes:
    """The content of the first pair on one line; empty if there is none."""
    space, name = rb"[ \t\n\v\f\r]*", tag.encode()
    form = rb"<%b>%b([^<\n]*[^<\s])%b</%b>" % (name, space, space, name)
    found = re.search(form, after_thinking(text), re.IGNORECASE)
    return found[1] if found else b""


def _lower(text: bytes) -> bytes:
    return re.sub(rb"[A-Z]", lambda match: match[0].lower(), text)


def _is_only(text: bytes, tag: str) -> bool:
    marks = re.findall(rb"</?%b>" % tag.encode(), text)
    return marks == [b"<%b>" % tag.encode(), b"</%b>" % tag.encode()]
