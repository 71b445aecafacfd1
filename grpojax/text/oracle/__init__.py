"""Reference implementations of the functions on `Bytes`, by regular expressions.

Every function has a counterpart of the same name in `grpojax.text` that must agree with
it on every sequence of bytes. An integer is an `int` and a decimal a `Fraction`, or
`None` where there is none.
"""

import re
from collections.abc import Sequence

from ._first_tag import parse_label as parse_label, parse_option as parse_option
from ._number import parse_decimal as parse_decimal, parse_integer as parse_integer
from ._words import (
    normalize as normalize,
    parse_choice as parse_choice,
    parse_text as parse_text,
)


def to_bytes(
    pieces: Sequence[bytes], tokens: Sequence[int], keep: Sequence[bool], *, size: int
) -> bytes:
    """The last `size` bytes of the kept tokens."""
    kept_tokens = [token for token, kept in zip(tokens, keep, strict=True) if kept]
    known = [pieces[token] for token in kept_tokens if 0 <= token < len(pieces)]
    return b"".join(known)[-size:]


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
