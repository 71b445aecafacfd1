"""Where a text states its answer. The grammar is in the room."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from .._bytes import Bytes
from .._search import (
    as_int,
    first,
    is_space,
    last,
    occurrences,
    positions,
    shifted,
    tag_marks,
    tags_in_order,
    visible,
)


class Content(eqx.Module):
    """What states the answer of a text.

    **Fields:**

    - `data`: the text's bytes, 0 outside the content.
    - `begin`, `end`: of the content; `begin == end` if there is none.
    - `take_last`: whether the last answer in it counts, instead of the only one.
    - `marked`: whether it follows a marker, and more may follow the answer.
    - `plain`: whether a plain answer can be in it.
    """

    data: UInt8[Array, " size"]
    begin: Int[Array, ""]
    end: Int[Array, ""]
    take_last: Bool[Array, ""]
    marked: Bool[Array, ""]
    plain: Bool[Array, ""]


def check_find(find: str) -> None:
    """Raises a `ValueError` for what is neither a name of the grammar nor a marker."""
    if re.fullmatch(r"<[A-Za-z][A-Za-z0-9_-]*>", find) or find in NAMES:
        return
    if re.fullmatch(r"\w*", find) or "\0" in find or find.strip() != find:
        raise ValueError(
            "`find` must be 'auto', 'tag', 'boxed', 'last', 'all', a tag such as "
            f"'<result>', or a marker such as '####'. Received {find!r}: a marker has "
            "punctuation or a space inside, and none around it."
        )


NAMES = ("auto", "tag", "boxed", "last", "all")


def find_content(text: Bytes, find: str) -> Content:
    """The content of a text by the grammar above; `find` is static."""
    check_find(find)
    complete, text = text, after_thinking(text)
    if find == "auto":
        return _auto(complete, text)
    if find in ("last", "all"):
        start = jnp.zeros((), jnp.int32)
        return _content(text, start, text.length, take_last=find == "last")
    if find == "boxed":
        return _content(text, *_box(text))
    if find == "tag" or find.startswith("<"):
        tag = b"answer" if find == "tag" else find[1:-1].encode()
        return _tagged(complete, text, tag)
    return _marked(text, find.encode())


def after_thinking(text: Bytes) -> Bytes:
    """The text with 0 for thoughts; empty where they have no end."""
    closed = last(occurrences(text, b"</think>"))
    opened = last(occurrences(text, b"<think>"))
    begin = jnp.where(closed < 0, 0, closed + len(b"</think>"))
    data = jnp.where(positions(text) >= begin, visible(text), 0)
    return Bytes(data, jnp.where(opened > closed, 0, text.length))


def _auto(complete: Bytes, text: Bytes) -> Content:
    size = text.data.shape[0]
    has_tag = _tag(text, b"answer")[0] < size
    has_box = _box(text)[0] < size
    has_marker = jnp.any(occurrences(text, b"####"))

    def choose(tag: Array, boxed: Array, marked: Array, take_last: Array) -> Array:
        found = jnp.where(has_box, boxed, jnp.where(has_marker, marked, take_last))
        return jnp.where(has_tag, tag, found)

    return jax.tree.map(
        choose,
        _tagged(complete, text, b"answer"),
        _content(text, *_box(text)),
        _marked(text, b"####"),
        _content(text, jnp.zeros((), jnp.int32), text.length, take_last=True),
    )


def _tag(text: Bytes, tag: bytes) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The content of the last pair of tags; both `size` if there is none."""
    opening, closing = tag_marks(tag)
    size, position = text.data.shape[0], positions(text)
    closes = occurrences(text, closing)
    opens = occurrences(text, opening)
    opened = last(opens & (position + len(opening) <= last(closes)))
    begin = opened + len(opening)
    end = first(closes & (position >= begin))
    found = opened >= 0
    return jnp.where(found, begin, size), jnp.where(found, end, size)


def _tagged(complete: Bytes, text: Bytes, tag: bytes) -> Content:
    begin, end = _tag(text, tag)
    # What is well-formed has one pair of tags, thoughts included.
    once = tags_in_order(complete, (tag,))
    found = begin < text.data.shape[0]
    return _unboxed(text, begin, end, found, marked=False, plain=once)


def _marked(text: Bytes, marker: bytes) -> Content:
    size, data, position = text.data.shape[0], visible(text), positions(text)
    at = last(occurrences(text, marker))
    after = position >= at + len(marker)
    begin = jnp.where(at < 0, size, first(after & ~is_space(data)))
    newline = (data == ord("\n")) | (data == ord("\r"))
    end = jnp.minimum(first(newline & (position >= begin)), text.length)
    return _unboxed(text, begin, end, at >= 0, marked=True, plain=at >= 0)


def _box(
    text: Bytes, within: tuple[Int[Array, ""], Int[Array, ""]] | None = None
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The content of the last box, or of that in a part of the text; else `size`."""
    size, data, position = text.data.shape[0], visible(text), positions(text)
    boxed = occurrences(text, b"\\boxed{") | occurrences(text, b"\\fbox{")
    if within is not None:
        boxed = boxed & (position >= within[0]) & (position < within[1])
    at = last(boxed)
    begin = first((data == ord("{")) & (position > at)) + 1
    escaped = shifted(data, 1) == ord("\\")
    brace = as_int((data == ord("{")) & ~escaped) - as_int(
        (data == ord("}")) & ~escaped
    )
    depth = jnp.cumsum(jnp.where(position >= begin, brace, 0), dtype=jnp.int32)
    end = first((depth < 0) & (position >= begin))
    limit = size if within is None else within[1]
    found = (at >= 0) & (end < limit)
    return jnp.where(found, begin, size), jnp.where(found, end, size)


def _unboxed(
    text: Bytes,
    begin: Int[Array, ""],
    end: Int[Array, ""],
    found: Bool[Array, ""],
    *,
    marked: bool,
    plain: Bool[Array, ""],
) -> Content:
    """The box inside a content, or the content; any box if it is not found."""
    size, nothing = text.data.shape[0], jnp.zeros((), jnp.int32)
    within = jnp.where(found, begin, nothing), jnp.where(found, end, text.length)
    inner, inner_end = _box(text, within)
    boxed = inner < size
    begin, end = jnp.where(boxed, inner, begin), jnp.where(boxed, inner_end, end)
    return _content(text, begin, end, marked=marked, plain=plain & ~boxed)


def _content(
    text: Bytes,
    begin: Int[Array, ""],
    end: Int[Array, ""],
    *,
    take_last: bool = False,
    marked: bool = False,
    plain: Bool[Array, ""] | None = None,
) -> Content:
    """The part of a text without the space at its ends."""
    data, position = visible(text), positions(text)
    inside = (position >= begin) & (position < end)
    data = jnp.where(inside, data, 0)
    kept = inside & ~is_space(data) & (data != 0)
    stop = last(kept) + 1
    start = jnp.minimum(first(kept), stop)
    return Content(
        data=jnp.where((position >= start) & (position < stop), data, 0),
        begin=start,
        end=stop,
        take_last=jnp.asarray(take_last),
        marked=jnp.asarray(marked),
        plain=jnp.ones((), bool) if plain is None else plain,
    )
