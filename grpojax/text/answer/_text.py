"""Texts as answers. The grammar is in the room."""

import functools as ft
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from .._bytes import Bytes
from .._search import (
    begins_with,
    first,
    is_any,
    is_space,
    last,
    positions,
    positions_of,
    shifted,
    visible,
)
from ._content import find_content


STYLES = (b"\\text{", b"\\textbf{", b"\\textit{", b"\\mathrm{", b"\\mathbf{")
ENDS = b".,;:!?\"'`*$"
QUOTES = tuple(x.encode() for x in "\u2018\u2019\u201c\u201d")
ARTICLES = (b"a", b"an", b"the")

_PRIME = 16_777_619  # Of the hash FNV-1.


def parse_text(text: Bytes, find: str = "auto", *, plain: bool = False) -> Bytes:
    r"""The text that a text gives as its answer, without the space around it.

    It is the content of the grammar, or of the `\text{...}` that is all of it; with
    `"last"` it is the last line.

    **Arguments:**

    - `text`: one text.
    - `find`: as in `parse_integer`; static.
    - `plain`: whether a box inside a tag, or a second tag, is no answer; static.

    **Returns:** the answer, of length 0 if there is none.

    **Raises:** `ValueError` as `parse_integer`.
    """
    content = find_content(text, find)
    data, position = content.data, positions_of(content.data)
    newline = last(is_any(data, b"\n\r"))
    begin = jnp.where(content.take_last, newline + 1, content.begin)
    printed = ~is_space(data) & (data != 0)
    begin = jnp.minimum(first(printed & (position >= begin)), content.end)
    braces = jnp.sum(is_any(data, b"{}") & (position >= begin), dtype=jnp.int32)
    closed = jnp.any((data == ord("}")) & (position == content.end - 1))
    styles = [
        jnp.where(jnp.any(begins_with(data, x) & (position == begin)), len(x), 0)
        for x in STYLES
    ]
    width = ft.reduce(jnp.maximum, styles)
    styled = (width > 0) & (braces == 2) & closed
    begin = begin + jnp.where(styled, width, 0)
    end = content.end - jnp.where(styled, 1, 0)
    printed = printed & (position >= begin) & (position < end)
    if plain:
        printed = printed & content.plain
    return _moved(data, first(printed), last(printed) + 1)


def normalize(text: Bytes) -> Bytes:
    """A text in lower case, without articles and without punctuation at its ends.

    Letters of ASCII and Latin-1 are put in lower case, runs of space become one space,
    the words `a`, `an` and `the` are removed where another word follows, and so are
    ``. , ; : ! ? " ' ` * $`` and quotation marks at both ends.

    **Arguments:**

    - `text`: one text.

    **Returns:** the text, padded as before.
    """
    data, position = visible(text), positions(text)
    data = _lower(data)
    space = is_space(data)
    marks = ft.reduce(operator.or_, (begins_with(data, x) for x in QUOTES))
    marks = marks | shifted(marks, 1) | shifted(marks, 2) | is_any(data, ENDS)
    kept = (position < text.length) & ~space & ~marks
    begin, end = first(kept), last(kept) + 1
    kept = (position >= begin) & (position < end)
    starts = shifted(space, 1) | (position == begin)
    for article in ARTICLES:
        width = len(article)
        word = starts & begins_with(data, article) & shifted(space, -width)
        word = word & (position >= begin) & (position + width < end)
        for i in range(width + 1):
            kept = kept & ~shifted(word, i)
    # The first of a run of space; the others have gone with it.
    kept = kept & ~(space & shifted(space, 1))
    data = jnp.where(space, ord(" "), data).astype(jnp.uint8)
    index = jnp.where(kept, jnp.cumsum(kept, dtype=jnp.int32) - 1, data.shape[0])
    moved = jnp.zeros_like(data).at[index].set(data, mode="drop")
    return Bytes(moved, jnp.sum(kept, dtype=jnp.int32))


def equal(one: Bytes, other: Bytes) -> Bool[Array, ""]:
    """Whether two texts are the same, whatever their padding.

    **Arguments:**

    - `one`, `other`: a text each.

    **Returns:** a boolean.
    """
    size = max(one.data.shape[0], other.data.shape[0])
    first_data, second_data = (
        jnp.pad(visible(x), (0, size - x.data.shape[0])) for x in (one, other)
    )
    return (one.length == other.length) & jnp.all(first_data == second_data)


def fingerprint(text: Bytes) -> Int[Array, ""]:
    """A hash of 32 bits, the same for equal texts.

    **Arguments:**

    - `text`: one text.

    **Returns:** int32.
    """
    size = text.data.shape[0]
    powers = np.cumprod(np.full(size, _PRIME, np.uint32), dtype=np.uint32)
    inside = positions(text) < text.length
    terms = jnp.where(inside, visible(text).astype(jnp.uint32) + 1, 0) * powers
    total = jnp.sum(terms, dtype=jnp.uint32)
    return jax.lax.bitcast_convert_type(total, jnp.int32)


def _lower(data: UInt8[Array, " size"]) -> UInt8[Array, " size"]:
    """ASCII and Latin-1 (two bytes of UTF-8, from C3 80 on) in lower case."""
    ascii_letter = (data >= ord("A")) & (data <= ord("Z"))
    latin = (shifted(data, 1) == 0xC3) & (data >= 0x80) & (data <= 0x9E)
    return jnp.where(ascii_letter | (latin & (data != 0x97)), data + 32, data)


def _moved(
    data: UInt8[Array, " size"], begin: Int[Array, ""], end: Int[Array, ""]
) -> Bytes:
    """A part of a text, at the front."""
    size = data.shape[0]
    length = jnp.maximum(end - begin, 0)
    index = begin + jnp.arange(size, dtype=jnp.int32)
    moved = data.at[index].get(mode="fill", fill_value=0)
    inside = jnp.arange(size, dtype=jnp.int32) < length
    return Bytes(jnp.where(inside, moved, 0), length)
