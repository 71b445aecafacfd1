"""Letters of choices as answers. The grammar is in the room."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from .._bytes import Bytes
from .._search import (
    as_int,
    begins_with,
    first,
    is_any,
    is_letter,
    is_space,
    is_word,
    last,
    positions_of,
    shifted,
)
from ._content import find_content
from ._number import ParsedInteger


PUNCTUATION = b"()[]{}.,:;!?*_\"'`$\\#-"
"""What may be around the letter of a choice that is all of a content."""


def check_letters(letters: str) -> None:
    """Raises a `ValueError` for what cannot be the letters of choices."""
    upper = letters.isascii() and letters.isalpha() and letters.isupper()
    if not upper or len(letters) < 2 or len(set(letters)) < len(letters):
        raise ValueError(
            "`letters` must be at least two different capital letters of ASCII. "
            f"Received {letters!r}: pass for instance 'ABCD'."
        )


def parse_choice(
    text: Bytes, find: str = "auto", *, letters: str = "ABCD", plain: bool = False
) -> ParsedInteger:
    r"""The letter that a text gives as its answer: `B`, `(B)`, `**B**`, `Answer: B`.

    **Arguments:**

    - `text`: one text.
    - `find`: as in `parse_integer`; static.
    - `letters`: of the choices, in capitals; static.
    - `plain`: whether only a letter that is written plainly counts; static.

    **Returns:** the index of the letter in `letters`; `valid` if there is one, and no
    other.

    **Raises:** `ValueError` for letters, or a `find`, that are not of this form.

    !!! example

        ```python
        parse_choice(pack(b"<answer>(B) Paris</answer>", size=64)).value  # 1
        ```
    """
    check_letters(letters)
    content = find_content(text, find)
    data, position = content.data, positions_of(content.data)
    kinds = jnp.full(256, -1, jnp.int32)
    kinds = kinds.at[jnp.asarray(list(letters.encode()))].set(
        jnp.arange(len(letters), dtype=jnp.int32)
    )
    kind = kinds[data]
    alone = ~shifted(is_word(data), 1) & ~shifted(is_word(data), -1)
    candidate = alone & (kind >= 0) & ~_is_word_of_english(data)
    # A letter of either case that is all of the content, but for punctuation.
    inside = (position >= content.begin) & (position < content.end)
    content_bytes = inside & ~is_space(data) & ~is_any(data, PUNCTUATION)
    capital = jnp.where(is_letter(data), data & 0xDF, data)
    only = first(content_bytes)
    sole_kind = jnp.max(jnp.where(position == only, kinds[capital], -1))
    sole = (jnp.sum(as_int(content_bytes), dtype=jnp.int32) == 1) & (sole_kind >= 0)
    lowest = jnp.min(jnp.where(candidate, kind, len(letters)))
    highest = jnp.max(jnp.where(candidate, kind, -1))
    final = last(candidate)
    final_kind = jnp.max(jnp.where(position == final, kind, -1))
    alternative = _is_alternative(
        data, last(candidate & (kind != final_kind) & (position < final)), final
    )
    one = jnp.where(content.take_last, (final >= 0) & ~alternative, lowest == highest)
    valid = one | sole
    if plain:
        begins = first(candidate) == only
        written = jnp.where(content.marked, begins, sole & begins)
        valid = valid & content.plain & (content.take_last | written)
    candidate_kind = jnp.where(content.take_last, final_kind, highest)
    value = jnp.where(sole, sole_kind, candidate_kind)
    return ParsedInteger(jnp.where(valid, value, 0), valid)


def _is_word_of_english(data: UInt8[Array, " size"]) -> Bool[Array, " size"]:
    """The article `A` and the pronoun `I` at the beginning of a sentence."""
    after = shifted(data, -2)
    lower = (after >= ord("a")) & (after <= ord("z"))
    before = shifted(data, 2)
    within = (shifted(data, 1) == ord(" ")) & (is_letter(before) | (before == ord(",")))
    listed = (
        begins_with(data, b"A and ")
        | begins_with(data, b"A or ")
        | begins_with(data, b"A is ")
    )
    word = is_any(data, b"AI") & (shifted(data, -1) == ord(" ")) & lower
    return word & ~within & ~listed


def _is_alternative(
    data: UInt8[Array, " size"], one: Int[Array, ""], other: Int[Array, ""]
) -> Bool[Array, ""]:
    """Whether only punctuation, `or` or `and` is between two positions."""
    position = positions_of(data)
    between = (position > one) & (position < other)
    words = jnp.sum(as_int(between & is_word(data)), dtype=jnp.int32)
    either = jnp.any(between & begins_with(data, b"or") & (words == 2))
    both = jnp.any(between & begins_with(data, b"and") & (words == 3))
    return (one >= 0) & ((words == 0) | either | both)
