"""Reference implementations of the functions on `Bytes`, by regular expressions.

Every function has a counterpart of the same name in `grpojax.text` that must agree with
it on every sequence of bytes. A number is an `int`, or `None` where
`ParsedInteger.valid` is false.
"""

import re
from collections.abc import Sequence


_SIGN = rb"(?P<sign>-\$|\$-|-|\$|)"
_LITERAL = rb"(?P<literal>[0-9](?:[.,]?[0-9])*)"
_NUMBER = _SIGN + _LITERAL
_LARGEST = 2**31 - 1


def to_bytes(
    pieces: Sequence[bytes], tokens: Sequence[int], keep: Sequence[bool], *, size: int
) -> bytes:
    """The last `size` bytes of the kept tokens."""
    kept_tokens = [token for token, kept in zip(tokens, keep, strict=True) if kept]
    known = [pieces[token] for token in kept_tokens if 0 <= token < len(pieces)]
    return b"".join(known)[-size:]


def number_after(text: bytes, marker: bytes = b"####") -> int | None:
    """The number right after the last marker."""
    _, found, rest = text.rpartition(marker)
    match = re.match(rb"\s*" + _NUMBER, rest)
    return _value(match) if found and match else None


def number_in_tag(text: bytes, tag: bytes = b"answer") -> int | None:
    """The number that is the content of the last pair of tags."""
    opening, closing = b"<" + tag + b">", b"</" + tag + b">"
    paired, found, _ = text.rpartition(closing)
    _, opened, _ = paired.rpartition(opening)
    if not (found and opened):
        return None
    content = text[paired.rindex(opening) + len(opening) :].split(closing)[0]
    match = re.fullmatch(rb"\s*" + _NUMBER + rb"\.?\s*", content)
    return _value(match) if match else None


def last_number(text: bytes) -> int | None:
    """The last number in the text."""
    literals = list(re.finditer(_LITERAL, text))
    if not literals:
        return None
    before = text[: literals[-1].start()]
    if before.endswith(b"."):
        return None
    magnitude = _magnitude(literals[-1]["literal"])
    negative = re.search(rb"(?<![0-9A-Za-z)])-\$?\Z", before)
    return -magnitude if negative and magnitude is not None else magnitude


def stop_string(
    pieces: Sequence[bytes], tokens: Sequence[int], pattern: bytes
) -> list[bool]:
    """After each token, whether the string has occurred in the text so far."""
    ends = range(1, len(tokens) + 1)
    return [pattern in b"".join(pieces[x] for x in tokens[:end]) for end in ends]


def count(text: bytes, pattern: bytes) -> int:
    """The number of positions at which the pattern begins."""
    return sum(text.startswith(pattern, place) for place in range(len(text)))


def contains(text: bytes, pattern: bytes) -> bool:
    """Whether the pattern occurs."""
    return pattern in text


def tags_in_order(text: bytes, tags: Sequence[bytes] = (b"think", b"answer")) -> bool:
    """Whether every tag is opened once and closed once, one after the other."""
    names = b"|".join(map(re.escape, tags))
    marks = re.findall(rb"</?(?:" + names + rb")>", text)
    once = len(set(marks)) == len(marks)
    return once and marks == [
        mark % tag for tag in tags for mark in (b"<%b>", b"</%b>")
    ]


def _value(match: re.Match[bytes]) -> int | None:
    magnitude = _magnitude(match["literal"])
    return -magnitude if magnitude and b"-" in match["sign"] else magnitude


def _magnitude(literal: bytes) -> int | None:
    whole, point, fraction = literal.partition(b".")
    if fraction.strip(b"0"):
        return None
    digits = whole.replace(b",", b"").lstrip(b"0") or b"0"
    if len(digits) > 10 or int(digits) > _LARGEST:
        return None
    return int(digits)
