"""What is beside a literal: signs, operators, powers. The grammar is in the room."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from .._search import (
    as_int,
    at,
    first,
    is_any,
    is_digit,
    is_letter,
    is_space,
    last,
    positions_of,
    shifted,
)


class Before(eqx.Module):
    """What is before a literal.

    **Fields:**

    - `negative`: there is a sign, and it is a minus.
    - `forbidden`: there is an inequality sign or a plus-minus.
    - `operand`: there is an operator, and a number before it.
    """

    negative: Bool[Array, ""]
    forbidden: Bool[Array, ""]
    operand: Bool[Array, ""]


class _Skipped(eqx.Module):
    """The bytes that may be between a literal, its sign and an operator.

    **Fields:**

    - `blank`: space within a line.
    - `any`: that, emphasis and currency.
    """

    blank: Bool[Array, " size"]
    any: Bool[Array, " size"]


def before(data: UInt8[Array, " size"], begin: Int[Array, ""]) -> Before:
    """What is before the literal that begins at a position."""
    position = positions_of(data)
    blank = is_space(data) & ~is_any(data, b"\n\r")
    skipped = _Skipped(blank, blank | is_any(data, b"$\\*") | _currency(data))
    mark = last(~skipped.any & (position < begin))
    wide = _is(_window(data, mark - 2, 3), *(x.encode() for x in "\u2212\u2013"))
    minus = wide | (at(data, mark) == ord("-"))
    sign = mark - 2 * as_int(wide)
    # What a sign touches says whether it is one; before a space, what precedes it.
    spaced = jnp.any(blank & (position > mark) & (position < begin))
    previous = last(~blank & (position < sign))
    left = at(data, jnp.where(spaced, previous, sign - 1))
    item = spaced & is_any(left, b"\n\r")
    difference = minus & (is_digit(left) | (left == ord(")")))
    negative = minus & ~item & ~difference & ~is_letter(left)

    mark = jnp.where(minus, last(~skipped.any & (position < sign)), mark)
    marked = _window(data, mark - 5, 6)
    inequality = (marked[5] == ord("=")) & is_any(marked[4], b"<>!")
    # Not a quotation at the beginning of a line, an arrow or a tag.
    greater = _is(marked, b" >") & (marked[3] != 0) & ~is_any(marked[3], b"\n\r")
    other = _is(marked, b"<", b"\\pm", *(x.encode() for x in "±≤≥≠"))
    return Before(
        negative=negative,
        forbidden=inequality | greater | other,
        operand=difference | _is_operand(data, skipped, mark, begin),
    )


def _is_operand(
    data: UInt8[Array, " size"],
    skipped: _Skipped,
    mark: Int[Array, ""],
    begin: Int[Array, ""],
) -> Bool[Array, ""]:
    """Whether an operator ends at `mark`, and a number is before it."""
    position, marked = positions_of(data), _window(data, mark - 5, 6)
    wide = _is(marked, *(x.encode() for x in "×÷"))
    word = _is(marked, b"\\times", b"\\cdot")
    either = _is(marked, b"or") & is_space(marked[3])
    width = jnp.where(word, 5, jnp.where(wide | either, 2, 1))
    left = at(data, last(~skipped.any & (position <= mark - width)))
    arithmetic = wide | word | either | is_any(marked[5], b"/^+")
    ratio = _is(marked, b":") & (mark == begin - 1) & is_digit(marked[4])
    starred = jnp.any((data == ord("*")) & (position > mark) & (position < begin))
    word_begin = last(~is_letter(data) & (position < begin))
    attached = is_digit(at(data, word_begin)) & (word_begin < begin - 1)
    return (
        (arithmetic & (is_digit(left) | is_any(left, b")}")))
        | (starred & is_digit(marked[5]))
        | ratio
        | _is(marked, b"}{")
        | attached
    )


def continues(data: UInt8[Array, " size"], end: Int[Array, ""]) -> Bool[Array, ""]:
    """Whether a literal is only a part of a number: of 5e3, 5π or 5½."""
    position, letter = positions_of(data), is_letter(data)
    word_end = first(~letter & (position >= end))
    attached = (word_end > end) & is_digit(at(data, word_end))
    next_mark = first(~is_space(data) & (data != ord("*")) & (position >= end))
    found = _window(data, next_mark, 3)
    head, second, third = found[0], found[1], found[2]
    latin = (head == 0xC2) & is_any(second, "²³¹¼½¾".encode()[1::2])
    raised = (head == 0xE2) & (second == 0x81) & (third >= 0xB0) & (third <= 0xB9)
    fraction = (head == 0xE2) & (second == 0x85) & (third >= 0x90) & (third <= 0x9E)
    pi = (head == 0xCF) & (second == 0x80)
    latex = (head == ord("\\")) & (second == ord("p")) & (third == ord("i"))
    return attached | latin | raised | fraction | pi | latex


def _currency(data: UInt8[Array, " size"]) -> Bool[Array, " size"]:
    """The bytes of ¢ £ ¤ ¥, and of U+20A0 to U+20BF, € among them."""
    one, two = shifted(data, -1), shifted(data, -2)
    latin = (data == 0xC2) & (one >= 0xA2) & (one <= 0xA5)
    other = (data == 0xE2) & (one == 0x82) & (two >= 0xA0) & (two <= 0xBF)
    begin = latin | other
    return begin | shifted(begin, 1) | shifted(other, 2)


def _window(
    data: UInt8[Array, " size"], begin: Int[Array, ""], width: int
) -> UInt8[Array, " {width}"]:
    """The bytes from a position on, 0 outside."""
    index = begin + jnp.arange(width, dtype=jnp.int32)
    index = jnp.where(index < 0, data.shape[0], index)
    return data.at[index].get(mode="fill", fill_value=0)


def _is(window: UInt8[Array, " width"], *patterns: bytes) -> Bool[Array, ""]:
    """Whether a window ends with one of some patterns."""
    found = jnp.zeros((), bool)
    for pattern in patterns:
        expected = jnp.asarray(list(pattern), jnp.uint8)
        found = found | jnp.all(window[-len(pattern) :] == expected)
    return found
