"""What games read of a turn, inside the compiled program: few, small operations.

The full grammar of numbers, `grpojax.text.parse_integer`, takes long to compile; a move
of a game is written plainly.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer

from grpojax.text import Bytes


Mask = Bool[Array, " size"]


def positions(text: Bytes) -> Int[Array, " size"]:
    """The index of every byte."""
    return jnp.arange(text.data.shape[0], dtype=jnp.int32)


def is_digit(data: Integer[Array, "*shape"]) -> Bool[Array, "*shape"]:
    return (data >= ord("0")) & (data <= ord("9"))


def last(mask: Mask) -> Int[Array, ""]:
    """The last position of a mask; -1 if it is empty."""
    place = jnp.arange(mask.shape[0], dtype=jnp.int32)
    return jnp.max(jnp.where(mask, place, -1))


def last_run(text: Bytes, mask: Mask) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The beginning and the end of the last run of marked bytes; 0 and 0 for none."""
    place = positions(text)
    mask = mask & (place < text.length)
    end = last(mask) + 1
    return last(~mask & (place < end)) + 1, end


def last_integer(text: Bytes) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """The last run of digits, and whether there is one, of at most six."""
    begin, end = last_run(text, is_digit(text.data))
    place = positions(text)
    inside = (place >= begin) & (place < end) & (end - begin <= 6)
    power = jnp.asarray([10**k for k in range(6)], jnp.int32)
    weight = power[jnp.clip(end - 1 - place, 0, 5)]
    digit = text.data.astype(jnp.int32) - ord("0")
    value = jnp.sum(jnp.where(inside, digit * weight, 0), dtype=jnp.int32)
    return value, (end > begin) & (end - begin <= 6)


def last_bytes(text: Bytes, mask: Mask, count: int) -> Int[Array, " count"]:
    """The last `count` marked bytes in order; 0 for those that there are not."""
    mask = mask & (positions(text) < text.length)
    total = jnp.sum(mask, dtype=jnp.int32)
    place = jnp.cumsum(mask, dtype=jnp.int32) - 1 - total + count
    place = jnp.where(mask & (place >= 0), place, count)
    found = jnp.zeros(count, jnp.int32)
    return found.at[place].set(text.data.astype(jnp.int32), mode="drop")
