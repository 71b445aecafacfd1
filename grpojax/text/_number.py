"""Integers in text, parsed inside a compiled program.

The grammar, on bytes and in ASCII throughout:

    number   = sign? literal
    sign     = "-" | "$" | "-$" | "$-"
    literal  = the longest match of  digit ([.,]? digit)*
    integer  = a literal of the form  digit (","? digit)* ("." "0"*)?
    space    = " " | "\\t" | "\\n" | "\\v" | "\\f" | "\\r"

A literal that is not an integer, such as `18.5`, `1.2.3` or `1.000,0`, is not parsed as
a shorter number: there is no number at that position. The same holds for an integer of
magnitude above 2**31 - 1. Commas between two digits are dropped, so `1,000` is 1000;
`18.00` is 18, and so is `18.` at the end of a sentence. Leading zeros are allowed.

There is no loop over bytes: each function is a few vectorized passes over all
positions, for any length of text and of number. `grpojax.text.oracle` defines the same
functions by regular expressions.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from ._bytes import Bytes
from ._search import first, last, occurrences, positions, tag_marks, visible


_POWERS = tuple(10**k for k in range(9))  # The tenth digit may overflow int32.


class ParsedInteger(eqx.Module):
    """An integer parsed from a text, if there is one.

    **Fields:**

    - `value`: int32, 0 if there is none.
    - `valid`: whether there is one.
    """

    value: Int[Array, "*batch"]
    valid: Bool[Array, "*batch"]


def number_after(text: Bytes, marker: bytes = b"####") -> ParsedInteger:
    """The number right after the last occurrence of a marker, as in `#### 1,234`.

    There may be space between the two, and any text after the number. If no number
    follows the last marker there is none: earlier markers are ignored.

    **Arguments:**

    - `text`: one text.
    - `marker`: static.

    **Returns:** the number.

    !!! example

        ```python
        number_after(pack(b"so he has #### 1,234", size=64)).value  # 1234
        ```
    """
    data = visible(text)
    marked = last(occurrences(text, marker))
    after = positions(text) >= marked + len(marker)
    begin = first(after & ~_is_space(data))
    number, _ = _signed(data, jnp.where(marked < 0, data.shape[0], begin))
    return number


def number_in_tag(text: Bytes, tag: bytes = b"answer") -> ParsedInteger:
    """The number that is the content of the last `<answer>...</answer>`.

    The last pair is the last opening tag that a closing tag follows, with the first
    such closing tag. Its content must be one number, optionally with space around it
    and a full stop after it. The text after the pair is ignored.

    **Arguments:**

    - `text`: one text.
    - `tag`: its name, without angle brackets; static.

    **Returns:** the number.

    **Raises:** `ValueError` for what is not the name of a tag.
    """
    opening, closing = tag_marks(tag)
    data, position = visible(text), positions(text)
    closes = occurrences(text, closing)
    opens = occurrences(text, opening)
    opened = last(opens & (position + len(opening) <= last(closes)))
    begin = opened + len(opening)
    end = first(closes & (position >= begin))
    nonspace = ~_is_space(data)
    found = jnp.where(opened < 0, data.shape[0], first(nonspace & (position >= begin)))
    number, after = _signed(data, found)
    after = after + _as_int(_at(data, after) == ord("."))
    valid = number.valid & (first(nonspace & (position >= after)) == end)
    return ParsedInteger(jnp.where(valid, number.value, 0), valid)


def last_number(text: Bytes) -> ParsedInteger:
    """The last number in a text.

    A `-` is its sign unless it follows a digit, a letter or `)`: `5-3` ends in 3 and
    `= -3` in -3. Digits right after a point, as in `.5`, are not an integer. If the
    last literal is not an integer there is none: earlier ones are ignored.

    **Arguments:**

    - `text`: one text.

    **Returns:** the number.
    """
    data, position = visible(text), positions(text)
    tail = last(_is_digit(data))
    begin = last(~_is_literal(data) & (position < tail)) + 1
    before = [_at(data, begin - i) for i in (1, 2, 3)]
    dollar = before[0] == ord("$")
    minus = jnp.where(dollar, before[1], before[0]) == ord("-")
    operand = jnp.where(dollar, before[2], before[1])
    subtracts = _is_digit(operand) | _is_letter(operand) | (operand == ord(")"))
    fraction = before[0] == ord(".")
    found = jnp.where(fraction, data.shape[0], begin)
    number, _ = _unsigned(data, found)
    return ParsedInteger(
        jnp.where(minus & ~subtracts, -number.value, number.value), number.valid
    )


def _signed(
    data: UInt8[Array, " size"], begin: Int[Array, ""]
) -> tuple[ParsedInteger, Int[Array, ""]]:
    """The number that begins at a position, and the position after it."""
    head, second = _at(data, begin), _at(data, begin + 1)
    minus, dollar = head == ord("-"), head == ord("$")
    both = (minus & (second == ord("$"))) | (dollar & (second == ord("-")))
    number, end = _unsigned(data, begin + _as_int(minus | dollar) + _as_int(both))
    value = jnp.where(minus | (both & dollar), -number.value, number.value)
    return ParsedInteger(value, number.valid), end


def _unsigned(
    data: UInt8[Array, " size"], begin: Int[Array, ""]
) -> tuple[ParsedInteger, Int[Array, ""]]:
    """The integer whose literal begins at a position, and the position after it."""
    position = jnp.arange(data.shape[0], dtype=jnp.int32)
    after = position >= begin
    end = first(after & ~_is_literal(data))
    inside = after & (position < end)
    point = jnp.minimum(first(inside & (data == ord("."))), end)
    # All digits between the point and the end must be 0.
    exact = ~jnp.any(inside & (position > point) & (data != ord("0")))
    integral = inside & (position < point) & _is_digit(data)
    digit = jnp.where(integral, data - ord("0"), 0).astype(jnp.int32)
    # A digit's power of ten is the number of digits after it.
    upto = jnp.cumsum(integral, dtype=jnp.int32)
    power = jnp.sum(integral, dtype=jnp.int32) - upto
    weight = jnp.asarray(_POWERS, jnp.int32).at[power].get(mode="fill", fill_value=0)
    low = jnp.sum(digit * weight, dtype=jnp.int32)
    high = jnp.sum(jnp.where(power == 9, digit, 0), dtype=jnp.int32)
    fits = (high < 2) | ((high == 2) & (low <= 2**31 - 1 - 2 * 10**9))
    fits = fits & ~jnp.any((power > 9) & (digit > 0))
    valid = _is_digit(_at(data, begin)) & exact & fits
    return ParsedInteger(jnp.where(valid, low + high * 10**9, 0), valid), end


def _at(data: UInt8[Array, " size"], position: Int[Array, ""]) -> UInt8[Array, ""]:
    """The byte at a position, 0 outside the text."""
    size = data.shape[0]
    inside = (position >= 0) & (position < size)
    return jnp.where(inside, data[jnp.clip(position, 0, size - 1)], 0)


def _as_int(condition: Bool[Array, ""]) -> Int[Array, ""]:
    return condition.astype(jnp.int32)


def _is_literal(data: UInt8[Array, " size"]) -> Bool[Array, " size"]:
    digit = _is_digit(data)
    before = jnp.pad(digit, (1, 0))[:-1]
    after = jnp.pad(digit, (0, 1))[1:]
    separator = (data == ord(",")) | (data == ord("."))
    return digit | (separator & before & after)


def _is_digit(data: UInt8[Array, "*shape"]) -> Bool[Array, "*shape"]:
    return (data >= ord("0")) & (data <= ord("9"))


def _is_letter(data: UInt8[Array, "*shape"]) -> Bool[Array, "*shape"]:
    lower = data | 0x20
    return (lower >= ord("a")) & (lower <= ord("z"))


def _is_space(data: UInt8[Array, "*shape"]) -> Bool[Array, "*shape"]:
    return (data == ord(" ")) | ((data >= ord("\t")) & (data <= ord("\r")))
