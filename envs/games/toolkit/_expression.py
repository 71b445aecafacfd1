"""Arithmetic expressions, evaluated exactly inside the compiled program.

    expression = ["-"] term (("+" | "-") term)*
    term       = factor (("*" | "/") factor)*
    factor     = number | "(" expression ")"
    number     = digits ["." [digits]] | "." digits

with spaces between any of these. Fractions are kept as two integers and not reduced;
where either would reach `LIMIT` there is no value. An expression of four numbers below
100, each used once, stays below it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt8

from ._fraction import (
    add,
    at_level,
    Fraction,
    LIMIT,
    multiply,
    pick,
    put_level,
)
from ._text import is_digit


DEPTH = 6
"""How deep parentheses may be, the outermost level included."""


class Value(NamedTuple):
    """The value of an expression.

    **Fields:**

    - `value`: 0 if there is none.
    - `valid`: whether there is one.
    - `uses`: whether every given number is in it, exactly once, and no other one.
    """

    value: Fraction
    valid: Bool[Array, ""]
    uses: Bool[Array, ""]


class _State(NamedTuple):
    """Progress of the evaluation.

    **Fields:**

    - `ok`: whether it can still become an expression.
    - `expects`: whether a factor comes next.
    - `fresh`: whether a minus here is a sign.
    - `depth`: the level of parentheses.
    - `sums`, `terms`: of each level, the sum of its terms so far and the term that is
        being read.
    - `divides`: of each level, whether the next factor divides the term.
    - `number`: the number that is being read.
    - `digits`, `point`: whether a digit of it, and its point, have been read.
    - `unused`: the given numbers that have not been read.
    - `others`: whether a number has been read that is not among them.
    """

    ok: Bool[Array, ""]
    expects: Bool[Array, ""]
    fresh: Bool[Array, ""]
    depth: Int[Array, ""]
    sums: Fraction
    terms: Fraction
    divides: Bool[Array, " level"]
    number: Fraction
    digits: Bool[Array, ""]
    point: Bool[Array, ""]
    unused: Bool[Array, " given"]
    others: Bool[Array, ""]


def evaluate(
    data: UInt8[Array, " size"],
    begin: Int[Array, ""],
    end: Int[Array, ""],
    given: Int[Array, " given"],
) -> Value:
    """The value of the expression `data[begin:end]`; total.

    **Arguments:**

    - `data`: bytes.
    - `begin`, `end`: the extent of the expression.
    - `given`: numbers to use; those that are 0 are not asked for.
    """
    place = jnp.arange(data.shape[0], dtype=jnp.int32)
    inside = (place >= begin) & (place < end)
    read_bytes = jnp.where(inside, data.astype(jnp.int32), ord(" "))
    after = jnp.concatenate([read_bytes[1:], jnp.full(1, ord(" "), jnp.int32)])
    one, levels = jnp.ones((), jnp.int32), jnp.ones(DEPTH, jnp.int32)
    yes, no = jnp.ones((), bool), jnp.zeros((), bool)
    start = _State(
        ok=yes,
        expects=yes,
        fresh=yes,
        depth=0 * one,
        sums=Fraction(0 * levels, levels),
        terms=Fraction(levels, levels),
        divides=jnp.zeros(DEPTH, bool),
        number=Fraction(0 * one, one),
        digits=no,
        point=no,
        unused=given != 0,
        others=no,
    )
    read = lambda state, pair: (_read(state, pair[0], pair[1], given), None)
    state, _ = jax.lax.scan(read, start, (read_bytes, after))
    total, fits = add(
        at_level(state.sums, state.depth), at_level(state.terms, state.depth)
    )
    valid = state.ok & ~state.expects & (state.depth == 0) & fits
    value = Fraction(jnp.where(valid, total.over, 0), jnp.where(valid, total.under, 1))
    return Value(value, valid, valid & ~state.others & ~jnp.any(state.unused))


class _Byte(NamedTuple):
    """What a byte is, where it stands."""

    digit: Bool[Array, ""]
    point: Bool[Array, ""]
    space: Bool[Array, ""]
    opens: Bool[Array, ""]
    closes: Bool[Array, ""]
    minus: Bool[Array, ""]
    sign: Bool[Array, ""]  # A minus in front of a term.
    adds: Bool[Array, ""]  # A plus or a minus between terms.
    times: Bool[Array, ""]
    divides: Bool[Array, ""]
    complete: Bool[Array, ""]  # The last one of a number.

    @property
    def literal(self) -> Bool[Array, ""]:
        return self.digit | self.point

    @property
    def operator(self) -> Bool[Array, ""]:
        return self.adds | self.times | self.divides

    @property
    def known(self) -> Bool[Array, ""]:
        others = self.space | self.opens | self.closes | self.sign
        return self.literal | self.operator | others

    @staticmethod
    def of(byte: Int[Array, ""], after: Int[Array, ""], state: _State) -> "_Byte":
        is_ = lambda char: byte == ord(char)
        digit, point, minus = is_digit(byte), is_("."), is_("-")
        more = is_digit(after) | (after == ord("."))
        return _Byte(
            digit=digit,
            point=point,
            space=is_(" "),
            opens=is_("("),
            closes=is_(")"),
            minus=minus,
            sign=minus & state.fresh,
            adds=is_("+") | (minus & ~state.fresh),
            times=is_("*"),
            divides=is_("/"),
            complete=(digit | point) & ~more,
        )


def _read(
    state: _State,
    byte: Int[Array, ""],
    after: Int[Array, ""],
    given: Int[Array, " given"],
) -> _State:
    """The state after one more byte; a number is complete at its last byte."""
    is_ = _Byte.of(byte, after, state)
    number = pick(is_.digit, _with_digit(state, byte), state.number)
    ok = state.ok & _fits_grammar(state, is_, number)
    used = is_.complete & (given != 0) & state.unused & (number.over == given)
    used &= number.under == 1
    first = used & (jnp.cumsum(used) == 1)
    nothing = Fraction(jnp.zeros((), jnp.int32), jnp.ones((), jnp.int32))
    state = state._replace(
        ok=ok,
        number=pick(is_.complete, nothing, number),
        digits=(state.digits | is_.digit) & is_.literal & ~is_.complete,
        point=(state.point | is_.point) & is_.literal & ~is_.complete,
        unused=state.unused & ~first,
        others=state.others | (is_.complete & ~jnp.any(used)),
    )
    return _compute(state, is_, number)


def _fits_grammar(state: _State, is_: _Byte, number: Fraction) -> Bool[Array, ""]:
    """Whether a byte may follow what has been read."""
    fits = (number.over < LIMIT) & (number.under < LIMIT)
    checks = (
        (is_.literal, state.expects & fits & ~(is_.point & state.point)),
        (is_.complete, state.digits | is_.digit),
        (is_.opens, state.expects & (state.depth + 1 < DEPTH)),
        (is_.closes, ~state.expects & (state.depth > 0)),
        (is_.operator, ~state.expects),
        (~is_.known, jnp.zeros((), bool)),
    )
    ok = jnp.ones((), bool)
    for applies, holds in checks:
        ok &= ~applies | holds
    return ok


def _compute(state: _State, is_: _Byte, number: Fraction) -> _State:
    """The state with the sums and terms after a byte."""
    depth = state.depth
    # The level's sum, which is also the value of a closed parenthesis.
    total, total_fits = add(at_level(state.sums, depth), at_level(state.terms, depth))
    ok = state.ok & (~(is_.adds | is_.closes) | total_fits)
    # A factor: a number at this level, or a parenthesis at the one around it.
    factor = pick(is_.closes, total, number)
    level = jnp.where(is_.closes, jnp.maximum(depth - 1, 0), depth)
    inverse = state.divides[level]
    term, term_fits = multiply(at_level(state.terms, level), factor, inverse)
    is_factor = is_.complete | is_.closes
    ok &= ~is_factor | (term_fits & ~(inverse & (factor.over == 0)))

    depth = jnp.where(is_.opens, depth + 1, level)
    term = pick(is_factor, term, at_level(state.terms, depth))
    one = jnp.ones((), jnp.int32)
    unit = Fraction(jnp.where(is_.minus, -1, one), one)
    term = pick(is_.opens | is_.adds | is_.sign, unit, term)
    sums = pick(is_.adds, total, at_level(state.sums, depth))
    sums = pick(is_.opens, Fraction(0 * one, one), sums)
    inverse = state.divides[depth] | is_.divides
    expects = ~is_factor & (state.expects | is_.operator)
    return state._replace(
        ok=ok,
        expects=jnp.where(is_.space, state.expects, expects),
        fresh=jnp.where(is_.space, state.fresh, is_.opens),
        depth=depth,
        sums=put_level(state.sums, depth, sums),
        terms=put_level(state.terms, depth, term),
        divides=state.divides.at[depth].set(
            inverse & ~(is_.opens | is_.adds | is_.times)
        ),
    )


def _with_digit(state: _State, byte: Int[Array, ""]) -> Fraction:
    over = state.number.over * 10 + byte - ord("0")
    return Fraction(over, state.number.under * jnp.where(state.point, 10, 1))
