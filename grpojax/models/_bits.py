"""16-bit floats as their bits, which XLA's CPU backend moves without widening them."""

import jax
import jax.numpy as jnp
from jaxtyping import DTypeLike, PyTree


def to_bits(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """The bits of all arrays of a 16-bit dtype; other arrays as they are."""
    bits = lambda x: jax.lax.bitcast_convert_type(x, jnp.uint16)
    if jnp.dtype(dtype).itemsize != 2:
        return tree
    return jax.tree.map(lambda x: bits(x) if x.dtype == dtype else x, tree)


def from_bits(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """The inverse of `to_bits`."""
    floats = lambda x: jax.lax.bitcast_convert_type(x, dtype)
    return jax.tree.map(lambda x: floats(x) if x.dtype == jnp.uint16 else x, tree)
