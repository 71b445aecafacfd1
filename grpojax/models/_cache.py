"""How a decoder keeps keys and values: as the bits of floats, or as 8-bit integers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Int8, Shaped

from ._layout import as_read
from ._weights import KVCache


def check_cache_dtype(cache_dtype: str, compute_dtype: str) -> None:
    """Refuses what keys and values cannot be kept in."""
    known = (compute_dtype, "float32", "bfloat16", "int8")
    # Bits do not say whose they are: all 16-bit floats of a policy are of one kind.
    if cache_dtype not in known or {cache_dtype, compute_dtype} >= _SIXTEEN:
        raise ValueError(
            "Keys and values are kept in the dtype of the matrix products, in float32, "
            "in int8, or, where the products are float32, in bfloat16. Received "
            f"cache_dtype={cache_dtype!r} with compute_dtype={compute_dtype!r}."
        )


_SIXTEEN = {"bfloat16", "float16"}


def keep(cache: KVCache, dtype: str) -> KVCache:
    """Keys and values as a decoder keeps them; see `KVCache`."""
    if dtype == "int8":
        keys, key_scale = quantize(cache.keys, axis=-2)
        values, value_scale = quantize(cache.values, axis=-1)
        return KVCache(keys, values, key_scale, value_scale)
    keys, values = (_to_bits(x.astype(dtype)) for x in (cache.keys, cache.values))
    return KVCache(keys, values)


def write(cache: KVCache, chunk: KVCache, column: Int[ArrayLike, ""]) -> KVCache:
    """A cache with a chunk's own written to `column` and those after it."""
    put = jax.lax.dynamic_update_slice_in_dim
    scales = lambda cache: (cache.key_scale, cache.value_scale)
    cache = as_read(cache)
    written = KVCache(
        put(cache.keys, chunk.keys, column, axis=-1),
        put(cache.values, chunk.values, column, axis=-2),
        *jax.tree.map(
            lambda all, new: put(all, new, column, axis=-1),
            scales(cache),
            scales(chunk),
        ),
    )
    return as_read(written)


def quantize(
    x: Float[Array, "..."], axis: int
) -> tuple[Int8[Array, "..."], Float[Array, "..."]]:
    """Integers from -127 to 127 and scales, one for all that lies along an axis.

    scale = max |x| / 127,    |integer · scale - x| <= scale / 2
    """
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=axis) / 127
    unit = jnp.expand_dims(jnp.where(scale > 0, scale, 1), axis)
    return jnp.round(x / unit).astype(jnp.int8), scale


def as_floats(x: Shaped[Array, "*shape"], dtype: DTypeLike) -> Float[Array, "*shape"]:
    """What is kept, as operands of a product; integers without their scale."""
    if x.dtype == jnp.uint16:
        sixteen = dtype if jnp.dtype(dtype).itemsize == 2 else jnp.bfloat16
        x = jax.lax.bitcast_convert_type(x, sixteen)
    return x.astype(dtype)


def _to_bits(x: Float[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """The bits of 16-bit floats; wider ones as they are."""
    return jax.lax.bitcast_convert_type(x, jnp.uint16) if x.itemsize == 2 else x
