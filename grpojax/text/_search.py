import re

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from ._bytes import Bytes


def positions(text: Bytes) -> Int[Array, " size"]:
    return jnp.arange(text.data.shape[0], dtype=jnp.int32)


def visible(text: Bytes) -> UInt8[Array, " size"]:
    """The bytes of a text, with zero for everything behind its end."""
    return jnp.where(positions(text) < text.length, text.data, 0)


def first(mask: Bool[Array, " size"]) -> Int[Array, ""]:
    """The first position where the mask holds, `size` if there is none."""
    size = mask.shape[0]
    return jnp.min(jnp.where(mask, jnp.arange(size, dtype=jnp.int32), size))


def last(mask: Bool[Array, " size"]) -> Int[Array, ""]:
    """The last position where the mask holds, -1 if there is none."""
    size = mask.shape[0]
    return jnp.max(jnp.where(mask, jnp.arange(size, dtype=jnp.int32), -1))


def occurrences(text: Bytes, pattern: bytes) -> Bool[Array, " size"]:
    """Where a pattern begins that lies wholly inside the text."""
    if len(pattern) == 0:
        raise ValueError("A pattern must have at least one byte. Received b''.")
    size = text.data.shape[0]
    data = jnp.pad(text.data, (0, len(pattern) - 1))
    begins = positions(text) + len(pattern) <= text.length
    for i, byte in enumerate(pattern):
        begins = begins & (data[i : i + size] == byte)
    return begins


def tag_marks(tag: bytes) -> tuple[bytes, bytes]:
    """`<tag>` and `</tag>`."""
    if re.fullmatch(rb"[A-Za-z][A-Za-z0-9_-]*", tag) is None:
        raise ValueError(
            "A tag is a letter followed by letters, digits, `_` and `-`, without its "
            f'angle brackets. Received {tag!r}: for <answer>, write b"answer".'
        )
    return b"<" + tag + b">", b"</" + tag + b">"


def count(text: Bytes, pattern: bytes) -> Int[Array, ""]:
    """The number of positions at which a pattern begins; int32.

    Occurrences may overlap: `###` has two of `##`.
    """
    return jnp.sum(occurrences(text, pattern), dtype=jnp.int32)


def contains(text: Bytes, pattern: bytes) -> Bool[Array, ""]:
    """Whether a pattern occurs in a text."""
    return jnp.any(occurrences(text, pattern))


def tags_in_order(
    text: Bytes, tags: tuple[bytes, ...] = (b"think", b"answer")
) -> Bool[Array, ""]:
    """Whether every tag is opened once and closed once, one after the other.

    For `think` and `answer`: `<think>`, `</think>`, `<answer>` and `</answer>` occur
    exactly once each and in that order. What stands between them and around them is
    free.

    **Arguments**

    - `tags`: their names, in order; static.
    """
    if len(tags) == 0:
        raise ValueError("tags_in_order(tags=...) needs at least one tag.")
    found = [occurrences(text, mark) for tag in tags for mark in tag_marks(tag)]
    once = [jnp.sum(mark, dtype=jnp.int32) == 1 for mark in found]
    place = jnp.stack([first(mark) for mark in found])
    return jnp.all(jnp.stack(once)) & jnp.all(place[:-1] < place[1:])
