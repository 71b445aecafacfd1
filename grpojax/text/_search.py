"""Searches for patterns in a text, inside a compiled program."""

import functools as ft
import operator
import re

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped, UInt8

from ._bytes import Bytes


def positions_of(data: Shaped[Array, " size"]) -> Int[Array, " size"]:
    """The index of every element."""
    return jnp.arange(data.shape[0], dtype=jnp.int32)


def positions(text: Bytes) -> Int[Array, " size"]:
    """The index of every byte."""
    return positions_of(text.data)


def visible(text: Bytes) -> UInt8[Array, " size"]:
    """The bytes of a text, with 0 past its end."""
    return jnp.where(positions(text) < text.length, text.data, 0)


def first(mask: Bool[Array, " size"]) -> Int[Array, ""]:
    """The first position of a mask; `size` if it is empty."""
    size = mask.shape[0]
    return jnp.min(jnp.where(mask, jnp.arange(size, dtype=jnp.int32), size))


def last(mask: Bool[Array, " size"]) -> Int[Array, ""]:
    """The last position of a mask; -1 if it is empty."""
    size = mask.shape[0]
    return jnp.max(jnp.where(mask, jnp.arange(size, dtype=jnp.int32), -1))


def shifted(data: Shaped[Array, " size"], by: int) -> Shaped[Array, " size"]:
    """What is `by` positions before each (after it, if negative); 0 outside."""
    size = data.shape[0]
    if by >= 0:
        return jnp.pad(data, (by, 0))[:size]
    return jnp.pad(data, (0, -by))[-by:]


def at(data: UInt8[Array, " size"], position: Int[Array, ""]) -> UInt8[Array, ""]:
    """The byte at a position, 0 outside the text."""
    size = data.shape[0]
    inside = (position >= 0) & (position < size)
    return jnp.where(inside, data[jnp.clip(position, 0, size - 1)], 0)


def as_int(condition: Bool[Array, "*shape"]) -> Int[Array, "*shape"]:
    """1 where a condition holds, else 0; int32."""
    return condition.astype(jnp.int32)


def is_digit(data: UInt8[Array, "*shape"]) -> Bool[Array, "*shape"]:
    return (data >= ord("0")) & (data <= ord("9"))


def is_word(data: UInt8[Array, "*shape"]) -> Bool[Array, "*shape"]:
    return is_letter(data) | is_digit(data)


def is_letter(data: UInt8[Array, "*shape"]) -> Bool[Array, "*shape"]:
    lower = data | 0x20
    return (lower >= ord("a")) & (lower <= ord("z"))


def is_space(data: UInt8[Array, "*shape"]) -> Bool[Array, "*shape"]:
    return (data == ord(" ")) | ((data >= ord("\t")) & (data <= ord("\r")))


def is_any(data: UInt8[Array, "*shape"], chars: bytes) -> Bool[Array, "*shape"]:
    """Whether each byte is one of a few."""
    return ft.reduce(operator.or_, (data == char for char in chars))


def occurrences(text: Bytes, pattern: bytes) -> Bool[Array, " size"]:
    """Mask of the positions at which an occurrence of a pattern begins."""
    if len(pattern) == 0:
        raise ValueError(
            "A pattern must have at least one byte. Received b'': pass what to find."
        )
    fits = positions(text) + len(pattern) <= text.length
    return fits & begins_with(text.data, pattern)


def begins_with(data: UInt8[Array, " size"], pattern: bytes) -> Bool[Array, " size"]:
    """Mask of the positions from which on the bytes are a pattern's."""
    each = (shifted(data, -i) == byte for i, byte in enumerate(pattern))
    return ft.reduce(operator.and_, each)


def tag_marks(tag: bytes) -> tuple[bytes, bytes]:
    """`<tag>` and `</tag>`."""
    if re.fullmatch(rb"[A-Za-z][A-Za-z0-9_-]*", tag) is None:
        raise ValueError(
            "A tag is a letter followed by letters, digits, `_` and `-`, without "
            f'angle brackets. Received {tag!r}: for <answer>, pass b"answer".'
        )
    return b"<" + tag + b">", b"</" + tag + b">"


def count(text: Bytes, pattern: bytes) -> Int[Array, ""]:
    """The number of occurrences of a pattern; they may overlap.

    **Arguments:**

    - `text`: one text.
    - `pattern`: static.

    **Returns:** the number of positions at which it begins, int32: 2 for `##` in `###`.

    **Raises:** `ValueError` for an empty pattern.
    """
    return jnp.sum(occurrences(text, pattern), dtype=jnp.int32)


def contains(text: Bytes, pattern: bytes) -> Bool[Array, ""]:
    """Whether a pattern occurs in a text.

    **Arguments:**

    - `text`: one text.
    - `pattern`: static.

    **Returns:** a boolean.

    **Raises:** `ValueError` for an empty pattern.
    """
    return jnp.any(occurrences(text, pattern))


def tags_in_order(
    text: Bytes, tags: tuple[bytes, ...] = (b"think", b"answer")
) -> Bool[Array, ""]:
    """Whether every tag is opened once and closed once, one after the other.

    For `think` and `answer`: `<think>`, `</think>`, `<answer>` and `</answer>` occur
    exactly once each and in that order, with any text between and around them.

    **Arguments:**

    - `text`: one text.
    - `tags`: their names, in order; static.

    **Returns:** a boolean.

    **Raises:** `ValueError` for no tags, or for what is not the name of a tag.
    """
    if len(tags) == 0:
        raise ValueError(
            "tags_in_order(tags=...) needs at least one tag. Received none: pass their "
            'names, as in (b"answer",).'
        )
    found = [occurrences(text, mark) for tag in tags for mark in tag_marks(tag)]
    once = [jnp.sum(mark, dtype=jnp.int32) == 1 for mark in found]
    position = jnp.stack([first(mark) for mark in found])
    return jnp.all(jnp.stack(once)) & jnp.all(position[:-1] < position[1:])
