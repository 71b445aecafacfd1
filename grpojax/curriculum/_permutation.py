"""A random permutation of any size, one image at a time."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, Key, UInt


_ROUNDS = 12


def permuted(
    key: Key[Array, ""], size: Int[Array, ""], index: Int[Array, ""]
) -> Int[Array, ""]:
    """The image of an index under the key's permutation of `0 .. size - 1`.

    A Feistel network permutes a square that holds `size` numbers,

        (left, right) -> (right, (left + hash(right, round key)) mod side)

    and an image outside of the range is mapped again until one is inside (cycle
    walking): a bijection, at the same cost for 10 problems and for 10 million, with no
    array of that size to compute, to keep and to save.
    """
    top = size.astype(jnp.uint32) - jnp.uint32(1)
    side = jnp.sqrt(top.astype(jnp.float32)).astype(jnp.uint32) + 1
    # The root may have been rounded down. An odd side has even permutations alone.
    side = side + (side * side <= top).astype(jnp.uint32)
    side = side + side % 2
    keys = jr.bits(key, (_ROUNDS,), jnp.uint32)

    def network(value: UInt[Array, ""]) -> UInt[Array, ""]:
        left, right = value // side, value % side
        for round_key in keys:
            left, right = right, (left + _hash(right, round_key) % side) % side
        return left * side + right

    image = network(index.astype(jnp.uint32))
    image = jax.lax.while_loop(lambda value: value > top, network, image)
    return image.astype(jnp.int32)


def _hash(value: UInt[Array, ""], key: UInt[Array, ""]) -> UInt[Array, ""]:
    """MurmurHash3's finalizer."""
    value = (value + jnp.uint32(1)) * jnp.uint32(0x9E3779B9) ^ key
    value = (value ^ (value >> 16)) * jnp.uint32(0x85EBCA6B)
    value = (value ^ (value >> 13)) * jnp.uint32(0xC2B2AE35)
    return value ^ (value >> 16)
