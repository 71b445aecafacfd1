"""Options and labels in the first pair of a tag. The grammar is in the room."""

import functools as ft

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from .._bytes import Bytes
from .._search import (
    as_int,
    begins_with,
    first,
    is_digit,
    is_letter,
    is_space,
    occurrences,
    positions,
    tag_marks,
    tags_in_order,
    visible,
)
from ._content import after_thinking
from ._number import ParsedInteger


_DIGITS = 6
TOO_LARGE = 10**_DIGITS
"""What a number of an option with more digits is read as."""

LabelWords = tuple[tuple[str, ...], ...]
"""Of each label, the ways in which it is written."""


def parse_option(
    text: Bytes, tag: str = "answer", *, plain: bool = False
) -> ParsedInteger:
    """The number of an option that a text chooses: `3`, ` 03 ` or `Option 3`.

    **Arguments:**

    - `text`: one text.
    - `tag`: the name of the tag that has it; static.
    - `plain`: only `3`, in the text's only pair of that tag; static.

    **Returns:** the number; 1,000,000 for those that are larger.

    !!! example

        ```python
        parse_option(pack(b"<answer>Option 3</answer>", size=32)).value  # 3
        ```
    """
    data, begin, end = _first_tag(text, tag)
    position = positions(text)
    inside = (position >= begin) & (position < end)
    if plain:
        number, valid = begin, _is_only(text, tag)
        valid = valid & ((data[begin] != ord("0")) | (end == begin + 1))
    else:
        word = begins_with(_lower(data), b"option")[begin] & (begin + 6 < end)
        after = inside & ~is_space(data) & (position >= begin + 6)
        number, valid = jnp.where(word, first(after), begin), jnp.ones((), bool)
    digits = (position >= number) & inside
    valid = valid & (begin < end) & jnp.all(is_digit(data) | ~digits) & jnp.any(digits)
    place = end - 1 - position
    worth = jnp.power(10, jnp.clip(place, 0, _DIGITS - 1)).astype(jnp.int32)
    digit = jnp.where(digits, data.astype(jnp.int32) - ord("0"), 0)
    value = jnp.sum(jnp.where(place < _DIGITS, digit * worth, 0), dtype=jnp.int32)
    large = jnp.any((digit > 0) & (place >= _DIGITS))
    value = jnp.where(large, TOO_LARGE, value)
    return ParsedInteger(jnp.where(valid, value, 0), valid)


def parse_label(
    text: Bytes, words: LabelWords, tags: tuple[str, ...], *, plain: bool = False
) -> ParsedInteger:
    """The index of the label that a text gives.

    **Arguments:**

    - `text`: one text.
    - `words`: of each label, the ways in which it is written, of small letters alone;
        static. Case, and what is no letter, make no difference.
    - `tags`: the names of the tags that may have it, of which the first one that occurs
        counts; static.
    - `plain`: only the very bytes of `words`, in the text's only pair of the first tag;
        static.

    **Returns:** the index.

    !!! example

        ```python
        text = pack(b"<mood>No change.</mood>", size=32)
        parse_label(text, (("up",), ("same", "nochange")), ("mood",)).value  # 1
        ```
    """
    found = [_first_tag(text, tag) for tag in (tags[:1] if plain else tags)]
    data, begin, end = jax.tree.map(lambda *x: _first_found(found, x), *found)
    position = positions(text)
    keep = (position >= begin) & (position < end)
    if not plain:
        data = _lower(data)
        keep = keep & is_letter(data)
    width = max(len(word) for label in words for word in label)
    written = jnp.zeros(width, jnp.uint8)
    place = jnp.cumsum(keep, dtype=jnp.int32) - 1
    # A place beyond the longest word is dropped, and the count tells.
    written = written.at[jnp.where(keep, place, width)].set(data, mode="drop")
    count = jnp.sum(keep, dtype=jnp.int32)
    every = [
        (label, word.encode()) for label, each in enumerate(words) for word in each
    ]
    table = b"".join(word.ljust(width, b"\0") for _, word in every)
    table = jnp.asarray(np.frombuffer(table, np.uint8).reshape(-1, width))
    lengths = jnp.asarray([len(word) for _, word in every], jnp.int32)
    equal = jnp.all(table == written, axis=1) & (lengths == count)
    labels = jnp.asarray([label for label, _ in every], jnp.int32)
    valid = jnp.any(equal) & (_is_only(text, tags[0]) if plain else True)
    return ParsedInteger(jnp.where(valid, labels[jnp.argmax(equal)], 0), valid)


def _first_tag(
    text: Bytes, tag: str
) -> tuple[UInt8[Array, " size"], Int[Array, ""], Int[Array, ""]]:
    """The text after its thoughts, and where the content of the tag is.

    `begin` and `end` are equal if there is none.
    """
    text = after_thinking(text)
    opening, closing = tag_marks(tag.encode())
    data, position, size = visible(text), positions(text), text.data.shape[0]
    lower = Bytes(_lower(data), text.length)
    opens = occurrences(lower, opening)
    closes = jnp.pad(occurrences(lower, closing), (0, 1))
    # Of every position: the next angle bracket, the next byte that is no space, the
    # last one before it, and how many lines have ended.
    bracket = _following((data == ord("<")) & (position < text.length))
    shown = ~is_space(data) & (position < text.length)
    following = _following(shown)
    previous = jax.lax.cummax(jnp.where(shown, position, -1))
    lines = jnp.cumsum(data == ord("\n"), dtype=jnp.int32)
    start = jnp.minimum(position + len(opening), size)
    stop = bracket[start]
    begin = following[start]
    end = previous[jnp.maximum(stop - 1, 0)] + 1
    one_line = lines[jnp.maximum(end - 1, 0)] == lines[jnp.minimum(begin, size - 1)]
    found = first(opens & closes[stop] & (begin < end) & one_line)
    place = jnp.minimum(found, size - 1)
    is_there = found < size
    return (
        data,
        jnp.where(is_there, begin[place], 0),
        jnp.where(is_there, end[place], 0),
    )


def _following(mask: Bool[Array, " size"]) -> Int[Array, " size+1"]:
    """The first position of a mask from each position on; `size` if there is none."""
    size = mask.shape[0]
    place = jnp.where(mask, jnp.arange(size, dtype=jnp.int32), size)
    return jnp.pad(jax.lax.cummin(place, reverse=True), (0, 1), constant_values=size)


def _first_found(found: list, values: tuple[Array, ...]) -> Array:
    """The value of the first pair that is not empty."""
    pairs = list(zip(found, values, strict=True))
    return ft.reduce(
        lambda rest, pair: jnp.where(pair[0][1] < pair[0][2], pair[1], rest),
        reversed(pairs[:-1]),
        pairs[-1][1],
    )


def _lower(data: UInt8[Array, " size"]) -> UInt8[Array, " size"]:
    return data | (0x20 * as_int(is_letter(data))).astype(jnp.uint8)


def _is_only(text: Bytes, tag: str) -> Bool[Array, ""]:
    return tags_in_order(text, (tag.encode(),))
