"""16-bit floats as their bits, which XLA's CPU backend moves without widening them."""

import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike, PyTree


def to_bits(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """The tree with its arrays of a 16-bit dtype as uint16; other leaves unchanged."""
    if jnp.dtype(dtype).itemsize != 2:
        return tree
    bits = lambda x: jax.lax.bitcast_convert_type(x, jnp.uint16)
    return jax.tree.map(lambda x: bits(x) if x.dtype == dtype else x, tree)


def from_bits(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """The inverse of `to_bits`."""
    floats = lambda x: jax.lax.bitcast_convert_type(x, dtype)
    return jax.tree.map(lambda x: floats(x) if x.dtype == jnp.uint16 else x, tree)
