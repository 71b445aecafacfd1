"""Grouped-query attention over several sources, as each backend does it best.

Plain XLA says what it is. On an NVIDIA GPU products of 16-bit floats go through one
kernel (`_fused`), unless the compiler cuts heads or streams over a mesh: it cannot cut
a kernel.
"""

import functools as ft

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, DTypeLike, Float, Shaped

from .. import sharding
from . import _fused
from ._cache import as_floats
from ._remat import MIXED
from ._tiles import Columns, fits, Rows, Tiles, tiles_for
from ._weights import KVCache


Source = tuple[KVCache, Bool[Array, "#chunk _"]]
"""One layer's keys and values, and which columns each token of the chunk sees."""


def attend(
    query: Float[Array, "chunk head head_dim"],
    sources: list[Source],
    dtype: DTypeLike,
) -> Float[Array, "chunk features"]:
    """Grouped-query attention over several sources at once, softmax in float32.

    The sources are joined at their scores, not at their keys and values: a source that
    is shared by many streams is read where it lies.

    **Arguments:**

    - `query`: rotated queries.
    - `sources`: keys, values and visible columns, at least one column visible in all.
    - `dtype`: of the operands of both products.

    **Returns:** `Float[chunk head·head_dim]`, float32.
    """
    chunk, heads, head_dim = query.shape
    kv_heads = sources[0][0].keys.shape[0]
    repeats = heads // kv_heads
    query = (query * head_dim**-0.5).reshape(chunk, kv_heads, repeats, head_dim)
    # All that one head's keys meet are rows of one matrix, on the left: other orders
    # of axes leave the fast products of XLA's CPU backend.
    rows = jnp.moveaxis(query, 1, 0).reshape(kv_heads, chunk * repeats, head_dim)
    scaled = any(kv.key_scale is not None for kv, _ in sources)
    if scaled or not fits(head_dim, dtype) or sharding.cut_by_compiler():
        mixed = _plain(rows, sources, dtype)
    else:
        rows = rows.astype(dtype)
        # The shortest first: it is there while the kernel waits for the others.
        sources = sorted(sources, key=lambda source: source[1].shape[-1])
        columns = tuple(Columns(kv.keys, kv.values, seen) for kv, seen in sources)
        tiles = tiles_for(rows, repeats, dtype)
        mixed = jnp.asarray(_by_platform(tiles, rows, columns), jnp.float32)
    mixed = mixed.reshape(kv_heads, chunk, repeats * head_dim)
    return jnp.moveaxis(mixed, 0, 1).reshape(chunk, heads * head_dim)


def _plain(
    query: Rows, sources: list[Source], dtype: DTypeLike
) -> Float[Array, "kv_head row head_dim"]:
    """A scale multiplies a column of scores or weights, never keys and values."""
    rows = query.shape[1]
    scores = [
        jnp.where(
            jnp.repeat(mask, rows // mask.shape[0], axis=0)[None],
            _scaled(_contract("kqd,kds->kqs", query, kv.keys, dtype), kv.key_scale),
            -jnp.inf,
        )
        for kv, mask in sources
    ]
    # The maximum is a constant of the softmax: its gradient cancels.
    peaks = [jnp.max(s, axis=-1, keepdims=True) for s in scores]
    peak = jax.lax.stop_gradient(jax.tree.reduce(jnp.maximum, peaks))
    weights = [jnp.exp(s - peak) for s in scores]
    sums = [jnp.sum(w, axis=-1, keepdims=True) for w in weights]
    mixed = [
        _contract("kqs,ksd->kqd", _scaled(w, kv.value_scale), kv.values, dtype)
        for w, (kv, _) in zip(weights, sources, strict=True)
    ]
    return jax.tree.reduce(jnp.add, mixed) / jax.tree.reduce(jnp.add, sums)


def _plain_columns(tiles: Tiles, query: Rows, sources: tuple[Columns, ...]) -> Rows:
    found = [(KVCache(x.keys, x.values), x.visible) for x in sources]
    return _plain(query, found, tiles.dtype)


@ft.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_platform(tiles: Tiles, query: Rows, sources: tuple[Columns, ...]) -> Rows:
    return _remember(tiles, query, sources)[0]


def _remember(tiles: Tiles, query: Rows, sources: tuple[Columns, ...]):
    def plain(query, sources):
        mixed = _plain_columns(tiles, query, sources).astype(tiles.dtype)
        return mixed, jnp.zeros(query.shape[:2], jnp.float32)

    fused = lambda query, sources: _fused.forward(tiles, query, sources)
    found = jax.lax.platform_dependent(query, sources, cuda=fused, default=plain)
    mixed, normalizer = (checkpoint_name(x, MIXED) for x in found)
    return mixed, (query, sources, mixed, normalizer)


def _pull(tiles: Tiles, residuals, gradient: Rows):
    query, sources, mixed, normalizer = residuals

    def plain(query, sources, mixed, normalizer, gradient):
        del mixed, normalizer  # Computed again, as XLA may see.

        def again(query, pairs):
            return _plain_columns(tiles, query, _replaced(sources, pairs))

        pairs = tuple((source.keys, source.values) for source in sources)
        return jax.vjp(again, query, pairs)[1](gradient.astype(jnp.float32))

    of_query, of_pairs = jax.lax.platform_dependent(
        query,
        sources,
        mixed,
        normalizer,
        gradient,
        cuda=lambda *kept: _fused.backward(tiles, *kept),
        default=plain,
    )
    return of_query, _replaced(sources, of_pairs, visible=None)


def _replaced(
    sources: tuple[Columns, ...], pairs: tuple[tuple[Array, Array], ...], **fields
) -> tuple[Columns, ...]:
    """Sources with other keys and values."""
    found = zip(sources, pairs, strict=True)
    return tuple(x._replace(keys=k, values=v, **fields) for x, (k, v) in found)


_by_platform.defvjp(_remember, _pull)


def _scaled(
    columns: Float[Array, "kv_head _ column"],
    scale: Float[Array, "kv_head column"] | None,
) -> Float[Array, "kv_head _ column"]:
    if scale is None:
        return columns
    return columns * jnp.broadcast_to(scale[:, None, :], columns.shape)


def _contract(
    formula: str, x: Float[Array, "..."], cached: Shaped[Array, "..."], dtype: DTypeLike
) -> Float[Array, "..."]:
    """A product with keys or values as they are kept, accumulated in float32."""
    if jnp.dtype(dtype) == jnp.float32:
        cached = as_floats(cached, dtype)
        return jnp.einsum(formula, x, cached, precision=jax.lax.Precision.HIGHEST)

    def narrow(x, cached):
        x, cached = x.astype(dtype), as_floats(cached, dtype)
        return jnp.einsum(formula, x, cached, preferred_element_type=jnp.float32)

    def wide(x, cached):
        x = x.astype(dtype).astype(jnp.float32)
        if cached.dtype != jnp.float32:
            cached = as_floats(cached, dtype).astype(jnp.float32)
        return jnp.einsum(formula, x, cached)

    # Small batched products of 16-bit floats are slower on a CPU than wider ones.
    return jax.lax.platform_dependent(x, cached, cpu=wide, default=narrow)
