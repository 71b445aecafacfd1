"""Integers in text, read inside a compiled program.

The grammar, on bytes and in ASCII throughout:

    number   = sign? literal
    sign     = "-" | "$" | "-$" | "$-"
    literal  = the longest match of  digit ([.,]? digit)*
    integer  = a literal of the form  digit (","? digit)* ("." "0"*)?
    space    = " " | "\\t" | "\\n" | "\\v" | "\\f" | "\\r"

A literal that is no integer, such as `18.5`, `1.2.3` or `1.000,0`, is not a shorter
number: there is no number at that place. So it is with an integer whose magnitude is
more than 2**31 - 1. Commas are dropped wherever they stand between two digits, so
`1,000` is 1000; `18.00` is 18, and so is `18.` at the end of a sentence. Leading zeros
are allowed.

Nothing here walks through a text byte by byte: each function is a few passes over all
positions at once, for any length of text and of number. `grpojax.text.oracle` says the
same in regular expressions.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from ._bytes import Bytes
from ._search import first, last, occurrences, positions, tag_marks, visible


_POWERS = tuple(10**k for k in range(9))  # The tenth digit is counted by itself.


class Number(eqx.Module):
    """An integer that was or was not there.

    **Fields:**

    - `value`: int32, 0 when there is none.
    - `valid`: whether there is one.
    """

    value: Int[Array, "*batch"]
    valid: Bool[Array, "*batch"]


def number_after(text: Bytes, marker: bytes = b"####") -> Number:
    """The number right after the last occurrence of a marker, as in `#### 1,234`.

    Space may stand between the two; what follows the number is free. When no number
    follows the last marker there is none: earlier markers do not count.

    **Arguments**

    - `marker`: static.
    """
    data = visible(text)
    marked = last(occurrences(text, marker))
    behind = positions(text) >= marked + len(marker)
    place = first(behind & ~_is_space(data))
    number, _ = _signed(data, jnp.where(marked < 0, data.shape[0], place))
    return number


def number_in_tag(text: Bytes, tag: bytes = b"answer") -> Number:
    """The number that is the whole payload of the last `<answer>...</answer>`.

    The last pair is the last opening tag that has a closing tag behind it, with the
    first such closing tag. Its payload must be one number, with space around it if need
    be and a full stop at its end if need be. What follows the pair does not count.

    **Arguments**

    - `tag`: its name, without the angle brackets; static.
    """
    opening, closing = tag_marks(tag)
    data, place = visible(text), positions(text)
    closes = occurrences(text, closing)
    opened = last(occurrences(text, opening) & (place + len(opening) <= last(closes)))
    begin = opened + len(opening)
    end = first(closes & (place >= begin))
    inked = ~_is_space(data)
    found = jnp.where(opened < 0, data.shape[0], first(inked & (place >= begin)))
    number, behind = _signed(data, found)
    behind = behind + _one(_at(data, behind) == ord("."))
    whole = number.valid & (first(inked & (place >= behind)) == end)
    return Number(jnp.where(whole, number.value, 0), whole)


def last_number(text: Bytes) -> Number:
    """The last number in a text, wherever it stands.

    A `-` is its sign unless a digit, a letter or `)` stands right before it: `5-3` ends
    in 3 and `= -3` in -3. Digits right after a point, as in `.5`, are no integer. When
    the last literal is no integer there is none: earlier ones do not count.
    """
    data, place = visible(text), positions(text)
    tail = last(_is_digit(data))
    begin = last(~_is_literal(data) & (place < tail)) + 1
    before = [_at(data, begin - i) for i in (1, 2, 3)]
    dollar = before[0] == ord("$")
    minus = jnp.where(dollar, before[1], before[0]) == ord("-")
    operand = jnp.where(dollar, before[2], before[1])
    subtracts = _is_digit(operand) | _is_letter(operand) | (operand == ord(")"))
    fraction = before[0] == ord(".")
    found = jnp.where(fraction, data.shape[0], begin)
    number, _ = _unsigned(data, found)
    return Number(
        jnp.where(minus & ~subtracts, -number.value, number.value), number.valid
    )


def _signed(
    data: UInt8[Array, " size"], place: Int[Array, ""]
) -> tuple[Number, Int[Array, ""]]:
    """The number that begins at a place, and the place behind it."""
    here, there = _at(data, place), _at(data, place + 1)
    minus, dollar = here == ord("-"), here == ord("$")
    both = (minus & (there == ord("$"))) | (dollar & (there == ord("-")))
    number, end = _unsigned(data, place + _one(minus | dollar) + _one(both))
    value = jnp.where(minus | (both & dollar), -number.value, number.value)
    return Number(value, number.valid), end


def _unsigned(
    data: UInt8[Array, " size"], place: Int[Array, ""]
) -> tuple[Number, Int[Array, ""]]:
    """The integer whose literal begins at a place, and the place behind the literal."""
    position = jnp.arange(data.shape[0], dtype=jnp.int32)
    behind = position >= place
    end = first(behind & ~_is_literal(data))
    inside = behind & (position < end)
    point = jnp.minimum(first(inside & (data == ord("."))), end)
    # Everything between the point and the end must be zeros.
    exact = ~jnp.any(inside & (position > point) & (data != ord("0")))
    whole = inside & (position < point) & _is_digit(data)
    digit = jnp.where(whole, data - ord("0"), 0).astype(jnp.int32)
    # A digit counts 10 to the power of how many digits follow it.
    upto = jnp.cumsum(whole, dtype=jnp.int32)
    power = jnp.sum(whole, dtype=jnp.int32) - upto
    weight = jnp.asarray(_POWERS, jnp.int32).at[power].get(mode="fill", fill_value=0)
    low = jnp.sum(digit * weight, dtype=jnp.int32)
    high = jnp.sum(jnp.where(power == 9, digit, 0), dtype=jnp.int32)
    fits = (high < 2) | ((high == 2) & (low <= 2**31 - 1 - 2 * 10**9))
    fits = fits & ~jnp.any((power > 9) & (digit > 0))
    valid = _is_digit(_at(data, place)) & exact & fits
    return Number(jnp.where(valid, low + high * 10**9, 0), valid), end


def _at(data: UInt8[Array, " size"], place: Int[Array, ""]) -> UInt8[Array, ""]:
    """The byte at a place, zero outside the text."""
    size = data.shape[0]
    inside = (place >= 0) & (place < size)
    return jnp.where(inside, data[jnp.clip(place, 0, size - 1)], 0)


def _one(condition: Bool[Array, ""]) -> Int[Array, ""]:
    """One where it holds, else zero."""
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
