"""Fractions of two integers, not reduced and bounded, inside the compiled program."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


LIMIT = 10**8
"""Numerators and denominators are below it, so that ten times one fits 32 bits."""


class Fraction(NamedTuple):
    """`over / under`, with a positive denominator, as int32."""

    over: Int[Array, "*shape"]
    under: Int[Array, "*shape"]


def at_level(fractions: Fraction, level: Int[Array, ""]) -> Fraction:
    """One of several fractions."""
    return Fraction(fractions.over[level], fractions.under[level])


def put_level(fractions: Fraction, level: Int[Array, ""], one: Fraction) -> Fraction:
    """Several fractions with one of them replaced."""
    return Fraction(
        fractions.over.at[level].set(one.over),
        fractions.under.at[level].set(one.under),
    )


def pick(condition: Bool[Array, ""], one: Fraction, other: Fraction) -> Fraction:
    """One fraction where a condition holds, else the other."""
    return Fraction(
        *(jnp.where(condition, x, y) for x, y in zip(one, other, strict=True))
    )


def _product(
    one: Int[Array, ""], other: Int[Array, ""]
) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The product of two numbers below `LIMIT`, and whether it is below it as well."""
    most = (LIMIT - 1) // jnp.maximum(jnp.abs(other), 1)
    fits = (jnp.abs(one) <= most) | (other == 0)
    return jnp.where(fits, one * other, 0), fits


def add(one: Fraction, other: Fraction) -> tuple[Fraction, Bool[Array, ""]]:
    """The sum, and whether it stays below `LIMIT`."""
    left, left_fits = _product(one.over, other.under)
    right, right_fits = _product(other.over, one.under)
    under, under_fits = _product(one.under, other.under)
    fits = left_fits & right_fits & under_fits & (jnp.abs(left + right) < LIMIT)
    return Fraction(jnp.where(fits, left + right, 0), jnp.where(fits, under, 1)), fits


def multiply(
    one: Fraction, other: Fraction, inverse: Bool[Array, ""]
) -> tuple[Fraction, Bool[Array, ""]]:
    """The product or the quotient, and whether it stays below `LIMIT`.

    A quotient by 0 has the denominator 1.
    """
    negative = inverse & (other.over < 0)
    flipped = Fraction(
        jnp.where(negative, -other.under, other.under),
        jnp.maximum(jnp.abs(other.over), 1),
    )
    other = pick(inverse, flipped, other)
    over, over_fits = _product(one.over, other.over)
    under, under_fits = _product(one.under, other.under)
    fits = over_fits & under_fits
    return Fraction(jnp.where(fits, over, 0), jnp.where(fits, under, 1)), fits
