"""Keys and values, and how a decoder stores them: in tiles, as bits, or in 8 bits."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int, Shaped

from ...sharding import spmd
from ..matrix import (
    from_bits,
    from_tiles,
    quantize_int8,
    TiledMatrix,
    to_bits,
    to_tiles,
)
from ._tpu_layout import constrain_keys, constrain_values


class KVCache(eqx.Module):
    """Keys and values of one sequence, for a stack of layers.

    A decoder stores 16-bit floats as their bits: XLA's CPU backend has no 16-bit float
    `dynamic-update-slice`, and would convert an entire cache to write one column of it.
    The order of axes is the one that attention reads in place.

    **Fields:**

    - `keys`: a CPU reads 32-bit keys in tiles of columns.
    - `values`: with columns before features.
    - `key_scale`, `value_scale`: with 8-bit keys and values, the scale of each token
        and head; `None` otherwise.
    """

    keys: Shaped[Array, "*layer kv_head head_dim column"] | TiledMatrix
    values: Shaped[Array, "*layer kv_head column head_dim"]
    key_scale: Float[Array, "*layer kv_head column"] | None = None
    value_scale: Float[Array, "*layer kv_head column"] | None = None


_SIXTEEN = {"bfloat16", "float16"}


def check_cache_dtype(cache_dtype: str, compute_dtype: str) -> None:
    """Checks that keys and values can be stored in a dtype.

    **Arguments:**

    - `cache_dtype`: of the cache.
    - `compute_dtype`: of the matrix products.

    **Raises:** `ValueError` if they cannot.
    """
    known = (compute_dtype, "float32", "bfloat16", "int8")
    # Bits carry no dtype: all 16-bit floats of a policy must be of one.
    if cache_dtype not in known or {cache_dtype, compute_dtype} >= _SIXTEEN:
        raise ValueError(
            "Keys and values are stored in the dtype of the matrix products, in "
            "float32, in int8, or, where the products are float32, in bfloat16. "
            f"Received cache_dtype={cache_dtype!r} with "
            f"compute_dtype={compute_dtype!r}."
        )


def quantize_cache(cache: KVCache, dtype: str) -> KVCache:
    """Keys and values as a decoder stores them.

    **Arguments:**

    - `cache`: exact keys and values.
    - `dtype`: `"int8"` quantizes each token and head with a scale of its own; 16-bit
        floats become their bits.
    """
    exact_keys, exact_values = _untile(cache.keys), cache.values
    if dtype == "int8":
        keys, key_scale = quantize_int8(exact_keys, axis=-2)
        values, value_scale = quantize_int8(exact_values, axis=-1)
        return KVCache(keys, values, key_scale, value_scale)
    keys, values = (to_bits(x.astype(dtype), dtype) for x in (exact_keys, exact_values))
    is_tiled = dtype == "float32" and spmd.platform() == "cpu"
    return KVCache(_tile(keys) if is_tiled else keys, values)


def write_cache(cache: KVCache, chunk: KVCache, column: Int[ArrayLike, ""]) -> KVCache:
    """A cache with a chunk's own cache written to `column` and those after it."""
    put = jax.lax.dynamic_update_slice_in_dim
    put_scale = lambda scale, new: put(scale, new, column, axis=-1)
    scales = lambda cache: (cache.key_scale, cache.value_scale)
    cache = with_cache_layout(cache)
    written = KVCache(
        _write_keys(cache.keys, _untile(chunk.keys), column),
        put(cache.values, chunk.values, column, axis=-2),
        *jax.tree.map(put_scale, scales(cache), scales(chunk)),
    )
    return with_cache_layout(written)


def with_cache_layout(cache: KVCache) -> KVCache:
    """The cache, constrained to the memory layout that attention reads on a TPU."""
    if isinstance(cache.keys, TiledMatrix):
        return cache  # On a CPU.
    return KVCache(
        constrain_keys(cache.keys),
        constrain_values(cache.values),
        cache.key_scale,
        cache.value_scale,
    )


def slice_columns(
    cache: KVCache,
    start: Int[Array, ""],
    width: int,
    place: tuple[Int[Array, ""], ...] = (),
) -> KVCache:
    """Columns `start` to `start + width` of a cache, or of that at a place of several.

    Both must be multiples of a tile's columns where the keys are tiled.
    """

    def take(x: Array, axis: int, start: Int[Array, ""], width: int) -> Array:
        starts, sizes = [jnp.zeros_like(start)] * x.ndim, list(x.shape)
        starts[axis], sizes[axis] = start, width
        for leading, number in enumerate(place):
            starts[leading], sizes[leading] = number.astype(start.dtype), 1
        return jax.lax.dynamic_slice(x, starts, sizes)[(0,) * len(place)]

    if isinstance(cache.keys, TiledMatrix):
        tile = start // _TILE_WIDTH
        tiles = take(cache.keys.tiles, -3, tile, width // _TILE_WIDTH)
        keys = TiledMatrix(tiles)
    else:
        keys = take(cache.keys, -1, start, width)
    scale = lambda x: None if x is None else take(x, -1, start, width)
    return KVCache(
        keys,
        take(cache.values, -2, start, width),
        scale(cache.key_scale),
        scale(cache.value_scale),
    )


def columns_of(cache: KVCache) -> int:
    """How many columns a cache has."""
    return cache.values.shape[-2]


def dequantize(x: Shaped[Array, "*shape"], dtype: DTypeLike) -> Float[Array, "*shape"]:
    """Stored keys or values as operands of a product; integers without their scale."""
    sixteen = dtype if jnp.dtype(dtype).itemsize == 2 else jnp.bfloat16
    return from_bits(x, sixteen).astype(dtype)


_TILE_WIDTH = 64
"""Columns of a tile: a CPU's product with keys reads runs of so many numbers."""

_Keys = Shaped[Array, "*layer kv_head head_dim column"] | TiledMatrix


def _tile(keys: Shaped[Array, "*layer kv_head head_dim column"]) -> _Keys:
    columns = keys.shape[-1]
    several = columns > _TILE_WIDTH and columns % _TILE_WIDTH == 0
    return TiledMatrix(to_tiles(keys, _TILE_WIDTH)) if several else keys


def _untile(keys: _Keys) -> Shaped[Array, "*layer kv_head head_dim column"]:
    return from_tiles(keys.tiles) if isinstance(keys, TiledMatrix) else keys


def _write_keys(
    keys: _Keys,
    new: Shaped[Array, "*layer kv_head head_dim _"],
    column: Int[ArrayLike, ""],
) -> _Keys:
    put = jax.lax.dynamic_update_slice_in_dim
    if not isinstance(keys, TiledMatrix):
        return put(keys, new, column, axis=-1)
    if new.shape[-1] > 1:  # May span several tiles.
        return _tile(put(_untile(keys), new, column, axis=-1))
    tile, offset = jnp.divmod(column, _TILE_WIDTH)
    start = (*(0,) * (keys.tiles.ndim - 3), tile, 0, offset)
    new = new[..., None, :, :]
    return TiledMatrix(jax.lax.dynamic_update_slice(keys.tiles, new, start))
