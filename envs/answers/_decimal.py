"""Decimals as answers."""

import decimal
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped, UInt32

from grpojax.text import Bytes, oracle, parse_decimal, ParsedDecimal, ParsedInteger
from grpojax.text.answer import check_find

from ._abstract import AbstractAnswer, Checked


_BILLION = 10**9
_MIX = np.uint32(2_654_435_769)  # 2**32 over the golden ratio.


class _Value(NamedTuple):
    """A gold answer, and by how much a right one may differ from it."""

    number: Fraction
    bound: Fraction


class DecimalGold(eqx.Module):
    """Gold answers of `Decimal`.

    **Fields:**

    - `integer`, `fraction`: units and billionths of their magnitudes.
    - `negative`: their signs.
    - `bound_integer`, `bound_fraction`: by how much an answer may differ from each.
    """

    integer: UInt32[Array | np.ndarray, "*problem"]
    fraction: UInt32[Array | np.ndarray, "*problem"]
    negative: Bool[Array | np.ndarray, "*problem"]
    bound_integer: UInt32[Array | np.ndarray, "*problem"]
    bound_fraction: UInt32[Array | np.ndarray, "*problem"]


class Decimal(AbstractAnswer):
    r"""A decimal of magnitude below 2**31, compared exactly, or with a tolerance.

    `correct = abs(x - gold) <= max(tolerance, relative_tolerance * abs(gold))`

    in exact arithmetic on integers: numbers are rounded to nine digits after the point,
    and the bound is rounded down to as many.

    A gold answer is a number, or a text with one, as for `Integer`.

    **Fields:**

    - `tolerance`: absolute.
    - `relative_tolerance`: relative to the gold answer.
    - `find`: where the answer of a completion is, as for `Integer`.
    """

    tolerance: float = eqx.field(static=True, default=0.0)
    relative_tolerance: float = eqx.field(static=True, default=0.0)
    find: str = eqx.field(static=True, default="auto")

    def __check_init__(self):
        check_find(self.find)
        for name in ("tolerance", "relative_tolerance"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"`{name}` of Decimal must be at least 0 and finite. Received "
                    f"{value}."
                )

    def read(self, answer: object) -> _Value:
        number = None
        if isinstance(answer, str):
            find = "####" if "####" in answer else "all"
            number = oracle.parse_decimal(answer.encode(), find)
        elif isinstance(answer, float | np.floating) and math.isfinite(answer):
            number = Fraction(repr(float(answer)))
        elif isinstance(answer, decimal.Decimal) and answer.is_finite():
            number = Fraction(answer)
        elif isinstance(answer, int | np.integer) and not isinstance(answer, bool):
            number = Fraction(int(answer))
        if number is None:
            raise ValueError(f"its answer {answer!r} is not a decimal number")
        # Halves are rounded away from 0, as those of completions.
        rounded = Fraction(
            math.floor(abs(number) * _BILLION + Fraction(1, 2)), _BILLION
        )
        if rounded >= 2**31 or (number != 0 and rounded == 0):
            raise ValueError(
                f"its answer {answer!r} must have a magnitude below 2**31, and at most "
                "nine digits after the point"
            )
        relative = Fraction(repr(float(self.relative_tolerance))) * rounded
        bound = max(Fraction(repr(float(self.tolerance))), relative)
        return _Value(rounded if number > 0 else -rounded, bound)

    def stack(self, values: Sequence[_Value]) -> DecimalGold:
        numbers = [abs(value.number) for value in values]
        # Whatever is above covers every decimal.
        largest = 2**32 - Fraction(1, _BILLION)
        bounds = [min(value.bound, largest) for value in values]
        negative = np.array([value.number < 0 for value in values], bool)
        return DecimalGold(*_limbs(numbers), negative, *_limbs(bounds))

    def check(self, text: Bytes, gold: DecimalGold) -> Checked:
        found = parse_decimal(text, self.find)
        plain = parse_decimal(text, self.find, plain=True)
        return Checked(found.valid & _is_within(found, gold), plain.valid)

    def vote(self, text: Bytes) -> ParsedInteger:
        found = parse_decimal(text, self.find)
        vote = _hash(
            _unsigned(found.integer), _unsigned(found.fraction), found.negative
        )
        return ParsedInteger(jnp.where(found.valid, vote, 0), found.valid)

    def gold_vote(self, gold: DecimalGold) -> Int[Array, ""]:
        return _hash(
            jnp.asarray(gold.integer),
            jnp.asarray(gold.fraction),
            jnp.asarray(gold.negative),
        )

    def oracle(self, text: bytes, answer: object) -> tuple[bool, bool]:
        found = oracle.parse_decimal(text, self.find)
        plain = oracle.parse_decimal(text, self.find, plain=True)
        gold = self.read(answer)
        bound = Fraction(math.floor(gold.bound * _BILLION), _BILLION)
        correct = found is not None and abs(found - gold.number) <= bound
        return correct, plain is not None


def _limbs(
    numbers: Sequence[Fraction],
) -> tuple[UInt32[np.ndarray, " problem"], UInt32[np.ndarray, " problem"]]:
    """Units and billionths of numbers that are not negative, rounded down."""
    billionths = [math.floor(number * _BILLION) for number in numbers]
    integer = np.array([number // _BILLION for number in billionths], np.uint32)
    return integer, np.array([number % _BILLION for number in billionths], np.uint32)


def _unsigned(number: Shaped[Array, ""]) -> UInt32[Array, ""]:
    return number.astype(jnp.uint32)


def _is_within(found: ParsedDecimal, gold: DecimalGold) -> Bool[Array, ""]:
    """Whether two decimals differ by no more than the bound, in limbs of 32 bits."""
    a, b = _unsigned(found.integer), jnp.asarray(gold.integer)
    c, d = _unsigned(found.fraction), jnp.asarray(gold.fraction)
    larger = (a > b) | ((a == b) & (c >= d))
    high, low = jnp.where(larger, a - b, b - a), jnp.where(larger, c - d, d - c)
    # A difference of billionths below 0 has wrapped around.
    borrow = jnp.where(larger, c < d, d < c)
    high = high - _unsigned(borrow)
    low = jnp.where(borrow, low + _BILLION, low)
    carry = c + d >= _BILLION
    opposite = found.negative != gold.negative
    high = jnp.where(opposite, a + b + _unsigned(carry), high)
    low = jnp.where(opposite, jnp.where(carry, c + d - _BILLION, c + d), low)
    below = (high == gold.bound_integer) & (low <= gold.bound_fraction)
    return (high < gold.bound_integer) | below


def _hash(
    integer: UInt32[Array, ""], fraction: UInt32[Array, ""], negative: Bool[Array, ""]
) -> Int[Array, ""]:
    """A decimal as an int32: an integer as itself, others by a hash."""
    signed = jnp.where(negative, jnp.uint32(0) - integer, integer)
    mixed = signed ^ (fraction * _MIX)
    sign = jnp.where(negative & (fraction > 0), np.uint32(2**31), np.uint32(0))
    return (mixed ^ sign).astype(jnp.int32)
