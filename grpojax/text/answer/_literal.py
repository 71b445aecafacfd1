"""Literals of numbers: their extent, form and value. The grammar is in the room."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from .._search import (
    as_int,
    at,
    begins_with,
    first,
    is_any,
    is_digit,
    is_letter,
    positions_of,
    shifted,
)


SEPARATORS = (
    *(b",", b"'", b"_", b"{,}", b"\\,"),
    *("\u00a0".encode(), "\u2009".encode(), "\u202f".encode(), "\u2019".encode()),
)
"""What may be between groups of digits."""

_POWERS = tuple(10**k for k in range(9))  # The tenth digit may overflow int32.


class Literals(eqx.Module):
    """The literals of a content.

    **Fields:**

    - `inside`: the bytes that belong to one.
    - `separator`: the first bytes of separators of groups.
    - `starts`: where one begins that can be a number: not the 2 of `m^2` and `x_2`.
    """

    inside: Bool[Array, " size"]
    separator: Bool[Array, " size"]
    starts: Bool[Array, " size"]


def literals_of(data: UInt8[Array, " size"]) -> Literals:
    """All literals of a content."""
    digit, letter = is_digit(data), is_letter(data)
    after_digit = shifted(digit, 1)
    inside, separator = digit, jnp.zeros_like(digit)
    for mark in SEPARATORS:
        here = after_digit & begins_with(data, mark) & shifted(digit, -len(mark))
        separator = separator | here
        for i in range(len(mark)):
            inside = inside | shifted(here, i)
    before = shifted(data, 1)
    leading = ~(after_digit | shifted(letter, 1) | is_any(before, b")."))
    point = (data == ord(".")) & shifted(digit, -1)
    inside = inside | (point & (after_digit | leading))
    # An exponent or an index: a letter, `^` or `_`, and perhaps a brace.
    hat = is_any(data, b"^_") & (shifted(letter, 1) | is_any(before, b"}"))
    script = shifted(hat, 1) | ((before == ord("{")) & shifted(hat, 2))
    starts = inside & ~shifted(inside, 1)
    return Literals(inside, separator, starts & ~script)


class Value(eqx.Module):
    """The value of a literal, without its sign.

    **Fields:**

    - `integer`: the part before the point; int32.
    - `fraction`: the part after it, rounded to billionths; int32.
    - `exact`: whether every digit after the point is 0.
    - `integral`: whether there are digits before the point.
    - `valid`: whether it is a number, below 2**31.
    """

    integer: Int[Array, ""]
    fraction: Int[Array, ""]
    exact: Bool[Array, ""]
    integral: Bool[Array, ""]
    valid: Bool[Array, ""]


def literal_end(literals: Literals, begin: Int[Array, ""]) -> Int[Array, ""]:
    """The position after the literal that begins at a position."""
    position = positions_of(literals.inside)
    return first(~literals.inside & (position >= begin))


def value_of(
    data: UInt8[Array, " size"], literals: Literals, begin: Int[Array, ""]
) -> Value:
    """The value of the literal that begins at a position."""
    position = positions_of(data)
    inside = (position >= begin) & (position < literal_end(literals, begin))
    points = inside & (data == ord("."))
    point = first(points)
    integral = inside & (position < point) & is_digit(data)
    digit = jnp.where(is_digit(data), data - ord("0"), 0).astype(jnp.int32)
    # A digit's power of ten is the number of digits after it.
    upto = jnp.cumsum(integral, dtype=jnp.int32)
    count = jnp.sum(integral, dtype=jnp.int32)
    power = count - upto
    powers = jnp.asarray(_POWERS, jnp.int32)
    weight = powers.at[power].get(mode="fill", fill_value=0)
    low = jnp.sum(jnp.where(integral, digit * weight, 0), dtype=jnp.int32)
    high = jnp.sum(jnp.where(integral & (power == 9), digit, 0), dtype=jnp.int32)
    decimals = inside & (position > point)
    place = 8 - (position - point - 1)
    weight = powers.at[jnp.where(place < 0, 9, place)].get(mode="fill", fill_value=0)
    fraction = jnp.sum(jnp.where(decimals, digit * weight, 0), dtype=jnp.int32)
    # Rounded by the tenth digit, which may carry into the integer.
    fraction += as_int(jnp.any(decimals & (place == -1) & (digit >= 5)))
    carry = as_int(fraction == 10**9)
    fraction = fraction * (1 - carry)
    exact = ~jnp.any(decimals & (data != ord("0")))
    fits = (high < 2) | ((high == 2) & (low <= 2**31 - 1 - 2 * 10**9 - carry))
    fits = fits & ~jnp.any(integral & (power > 9) & (digit > 0))
    separator = inside & literals.separator
    grouped = _grouped(separator, power, count, at(data, begin) == ord("0"))
    late = jnp.any(decimals & separator) | (jnp.sum(points, dtype=jnp.int32) > 1)
    valid = jnp.any(inside) & fits & grouped & ~late
    return Value(
        integer=jnp.where(valid, low + high * 10**9 + carry, 0),
        fraction=jnp.where(valid, fraction, 0),
        exact=exact,
        integral=count > 0,
        valid=valid,
    )


def _grouped(
    separator: Bool[Array, " size"],
    power: Int[Array, " size"],
    count: Int[Array, ""],
    zero: Bool[Array, ""],
) -> Bool[Array, ""]:
    """Whether separators are where 1,234,567 or 12,34,567 has them, or nowhere."""
    number = jnp.sum(as_int(separator), dtype=jnp.int32)
    largest = jnp.max(jnp.where(separator, power, 0))
    thousands = ~jnp.any(separator & (power % 3 != 0))
    thousands = thousands & (largest == 3 * number) & (count - largest <= 3)
    lakhs = ~jnp.any(separator & ((power % 2 == 0) | (power < 3)))
    lakhs = lakhs & (largest == 2 * number + 1) & (count - largest <= 2)
    return (number == 0) | ((thousands | lakhs) & ~zero)
