"""Numbers as answers, parsed inside a compiled program. The grammar is in the room.

There is no loop over bytes: each function is a few vectorized passes over all
positions, for any length of text and of number.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from .._bytes import Bytes
from .._search import (
    as_int,
    at,
    begins_with,
    first,
    is_any,
    is_digit,
    is_letter,
    is_space,
    last,
    positions_of,
    shifted,
)
from ._around import before, continues
from ._content import Content, find_content
from ._literal import literal_end, Literals, literals_of, Value, value_of


class ParsedInteger(eqx.Module):
    """An integer parsed from a text, if there is one.

    **Fields:**

    - `value`: int32, 0 if there is none.
    - `valid`: whether there is one.
    """

    value: Int[Array, "*batch"]
    valid: Bool[Array, "*batch"]


class ParsedDecimal(eqx.Module):
    """A decimal parsed from a text, if there is one: exact, without floating point.

    **Fields:**

    - `integer`: the integer part of its magnitude; int32.
    - `fraction`: the rest of its magnitude in billionths; int32.
    - `negative`: its sign.
    - `valid`: whether there is one; if not, the others are 0.
    """

    integer: Int[Array, "*batch"]
    fraction: Int[Array, "*batch"]
    negative: Bool[Array, "*batch"]
    valid: Bool[Array, "*batch"]


def parse_integer(
    text: Bytes, find: str = "auto", *, plain: bool = False
) -> ParsedInteger:
    r"""The integer that a text gives as its answer.

    **Arguments:**

    - `text`: one text.
    - `find`: where the answer is: `"tag"` (`<answer>7</answer>`), `"boxed"`
        (`\boxed{7}`), `"last"`, `"all"`, `"auto"`, another tag such as `"<result>"`, or
        a marker such as `"####"`; static.
    - `plain`: whether the answer must be written plainly, as for a format reward:
        `#### 7` instead of `#### **x = 7**`; static.

    **Returns:** the integer.

    **Raises:** `ValueError` for a `find` that is none of these.

    !!! example

        ```python
        parse_integer(pack(b"so he has #### 1,234 eggs", size=64), "####").value  # 1234
        ```
    """
    value, negative = _parse(text, find, plain)
    valid = value.valid & value.exact & value.integral
    number = jnp.where(negative, -value.integer, value.integer)
    return ParsedInteger(jnp.where(valid, number, 0), valid)


def parse_decimal(
    text: Bytes, find: str = "auto", *, plain: bool = False
) -> ParsedDecimal:
    """The decimal that a text gives as its answer: 18.5, .5 or 18.

    **Arguments:** as those of `parse_integer`.

    **Returns:** the decimal, rounded to nine digits after the point.

    **Raises:** `ValueError` as `parse_integer`.
    """
    value, negative = _parse(text, find, plain)
    something = (value.integer > 0) | (value.fraction > 0)
    return ParsedDecimal(
        value.integer, value.fraction, value.valid & negative & something, value.valid
    )


def _parse(text: Bytes, find: str, plain: bool) -> tuple[Value, Bool[Array, ""]]:
    """The value of a text's number, 0 if there is none, and whether it is negative."""
    content = find_content(text, find)
    data, position = content.data, positions_of(content.data)
    literals = literals_of(data)
    sentence, result, several = _sentence(data, literals)
    only = first(literals.starts & (position > result))
    final = last(literals.starts)
    final = jnp.where(final < 0, data.shape[0], final)
    begin = jnp.where(content.take_last, final, only)
    end = literal_end(literals, begin)
    context = before(data, begin)
    # Digits behind a letter are a part of a unit.
    more = literals.starts & ~shifted(is_letter(data), 1)
    several = several | jnp.any(more & (position >= end) & (position < sentence))
    part = jnp.where(content.take_last, context.operand, several)
    fits = ~(part | context.forbidden | continues(data, end))
    if plain:
        is_plain = content.plain & _is_plain(content, begin, end)
        fits = jnp.where(content.take_last, fits, is_plain)
    value = value_of(data, literals, begin)
    fits = fits & value.valid
    return Value(
        integer=jnp.where(fits, value.integer, 0),
        fraction=jnp.where(fits, value.fraction, 0),
        exact=value.exact,
        integral=value.integral,
        valid=fits,
    ), context.negative


def _sentence(
    data: UInt8[Array, " size"], literals: Literals
) -> tuple[Int[Array, ""], Int[Array, ""], Bool[Array, ""]]:
    """The end of the sentence, its last `=` or `>>`, and whether it lists results."""
    position = positions_of(data)
    after, second = shifted(data, -1), shifted(data, -2)
    stop = is_any(data, b".!") & (is_space(after) | (after == 0)) & ~is_digit(second)
    begin = literal_end(literals, first(literals.starts))
    end = first(stop & (position >= begin))
    equals = (data == ord("=")) & ~is_any(shifted(data, 1), b"<>!")
    results = equals | ((data == ord(">")) & (shifted(data, 1) == ord(">")))
    result = last(results & (position < end))
    other = last(results & (position < result))
    comma = is_any(data, b",;") & ~literals.inside
    comma = comma | begins_with(data, b" or ") | begins_with(data, b" and ")
    several = jnp.any(comma & (position > other) & (position < result)) & (other >= 0)
    return end, result, several


def _is_plain(
    content: Content, begin: Int[Array, ""], end: Int[Array, ""]
) -> Bool[Array, ""]:
    """Whether a literal has only `-` and `$` before it, and a full stop after it."""
    data, width = content.data, begin - content.begin
    one, two = at(data, content.begin), at(data, content.begin + 1)
    both = ((one == ord("-")) & (two == ord("$"))) | (
        (one == ord("$")) & (two == ord("-"))
    )
    signed = ((width == 1) & is_any(one, b"-$")) | ((width == 2) & both)
    stop = end + as_int(at(data, end) == ord("."))
    return ((width == 0) | signed) & (content.marked | (stop == content.end))
