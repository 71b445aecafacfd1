"""How a decoder keeps keys and values: as the bits of floats, or as 8-bit integers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Int8, Shaped

from ..sharding import spmd
from ._bits import from_bits, to_bits
from ._layout import as_read
from ._matrix import TiledMatrix
from ._product import tiled, untiled
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
    exact = _whole(cache.keys), cache.values
    if dtype == "int8":
        keys, key_scale = quantize(exact[0], axis=-2)
        values, value_scale = quantize(exact[1], axis=-1)
        return KVCache(keys, values, key_scale, value_scale)
    keys, values = (to_bits(x.astype(dtype), dtype) for x in exact)
    tiles = dtype == "float32" and spmd.platform() == "cpu"
    return KVCache(_in_tiles(keys) if tiles else keys, values)


def write(cache: KVCache, chunk: KVCache, column: Int[ArrayLike, ""]) -> KVCache:
    """A cache with a chunk's own written to `column` and those after it."""
    put = jax.lax.dynamic_update_slice_in_dim
    scales = lambda cache: (cache.key_scale, cache.value_scale)
    cache = as_read(cache)
    written = KVCache(
        _put_keys(cache.keys, _whole(chunk.keys), column),
        put(cache.values, chunk.values, column, axis=-2),
        *jax.tree.map(
            lambda all, new: put(all, new, column, axis=-1),
            scales(cache),
            scales(chunk),
        ),
    )
    return as_read(written)


_WIDTH = 64
"""Columns of a tile: a CPU's product with keys reads runs of so many numbers."""

_Keys = Shaped[Array, "*layer kv_head head_dim column"] | TiledMatrix


def _in_tiles(keys: Shaped[Array, "*layer kv_head head_dim column"]) -> _Keys:
    columns = keys.shape[-1]
    several = columns > _WIDTH and columns % _WIDTH == 0
    return TiledMatrix(tiled(keys, _WIDTH)) if several else keys


def _whole(keys: _Keys) -> Shaped[Array, "*layer kv_head head_dim column"]:
    return untiled(keys.tiles) if isinstance(keys, TiledMatrix) else keys


def _put_keys(
    keys: _Keys,
    fresh: Shaped[Array, "*layer kv_head head_dim _"],
    column: Int[ArrayLike, ""],
) -> _Keys:
    put = jax.lax.dynamic_update_slice_in_dim
    if not isinstance(keys, TiledMatrix):
        return put(keys, fresh, column, axis=-1)
    if fresh.shape[-1] > 1:  # They may lie across tiles.
        return _in_tiles(put(_whole(keys), fresh, column, axis=-1))
    tile, offset = jnp.divmod(column, _WIDTH)
    start = (*(0,) * (keys.tiles.ndim - 3), tile, 0, offset)
    fresh = fresh[..., None, :, :]
    return TiledMatrix(jax.lax.dynamic_update_slice(keys.tiles, fresh, start))


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
    sixteen = dtype if jnp.dtype(dtype).itemsize == 2 else jnp.bfloat16
    return from_bits(x, sixteen).astype(dtype)
