"""Grouped-query attention over several sources, as each backend does it best.

Plain XLA says what it is. On an NVIDIA GPU products of 16-bit floats go through one
kernel (`_fused`), unless the compiler cuts heads or streams over a mesh: it cannot cut
a kernel.
"""

import functools as ft
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, DTypeLike, Float, Shaped

from ..sharding import spmd
from . import _fused
from ._cache import as_floats
from ._layers import row_products
from ._matrix import TiledMatrix
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
    kv_heads = sources[0][0].values.shape[0]
    repeats = heads // kv_heads
    query = (query * head_dim**-0.5).reshape(chunk, kv_heads, repeats, head_dim)
    # All that one head's keys meet are rows of one matrix, on the left: other orders
    # of axes leave the fast products of XLA's CPU backend.
    rows = jnp.moveaxis(query, 1, 0).reshape(kv_heads, chunk * repeats, head_dim)
    # The shortest first: it is there while the kernel waits for the others.
    sources = sorted(sources, key=lambda source: source[1].shape[-1])
    columns = tuple(
        Columns(kv.keys, kv.values, seen)
        for kv, seen in sources
        if kv.key_scale is None and not isinstance(kv.keys, TiledMatrix)
    )
    if len(columns) < len(sources):  # Kept so by a sampler: nothing asks for gradients.
        mixed, _ = _plain(rows, sources, dtype)
    else:
        rows = rows.astype(dtype)
        by_kernel = fits(head_dim, dtype) and not spmd.is_auto_sharded()
        tiles = tiles_for(rows, repeats, dtype) if by_kernel else None
        mixed = jnp.asarray(_mix(tiles, rows, columns), jnp.float32)
    mixed = mixed.reshape(kv_heads, chunk, repeats * head_dim)
    return jnp.moveaxis(mixed, 0, 1).reshape(chunk, heads * head_dim)


Mixed = tuple[Rows, Float[Array, "kv_head row"]]
"""What was mixed, and the logarithm of each row's sum of exponentials."""


@ft.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mix(tiles: Tiles | None, query: Rows, sources: tuple[Columns, ...]) -> Rows:
    """By the kernel where its platform is and tiles are given, and plain elsewhere."""
    return _remember(tiles, query, sources)[0]


def _remember(tiles: Tiles | None, query: Rows, sources: tuple[Columns, ...]):
    def plain(query, sources) -> Mixed:
        pairs = [(KVCache(x.keys, x.values), x.visible) for x in sources]
        mixed, normalizer = _plain(query, pairs, query.dtype)
        return mixed.astype(query.dtype), normalizer

    found = _by_platform(tiles, _fused.forward, plain, query, sources)
    mixed, normalizer = (checkpoint_name(x, MIXED) for x in found)
    return mixed, (query, sources, mixed, normalizer)


def _pull(tiles: Tiles | None, residuals, gradient: Rows):
    of_query, of_sources = _by_platform(
        tiles, _fused.backward, _plain_gradient, *residuals, gradient
    )
    _, sources, *_ = residuals
    found = zip(sources, of_sources, strict=True)
    like = tuple(
        x._replace(keys=keys, values=values, visible=None)
        for x, (keys, values) in found
    )
    return of_query, like


_mix.defvjp(_remember, _pull)


def _by_platform(tiles: Tiles | None, fused: Callable, plain: Callable, *operands):
    if tiles is None:
        return plain(*operands)
    fused = ft.partial(fused, tiles)
    return jax.lax.platform_dependent(*operands, cuda=fused, default=plain)


def _plain(query: Rows, sources: list[Source], dtype: DTypeLike) -> Mixed:
    """A scale multiplies a column of scores or weights, never keys and values."""
    scores = [
        _visible(
            mask,
            _scaled(_scores(query, kv.keys, dtype), kv.key_scale),
        )
        for kv, mask in sources
    ]
    peaks = [jnp.max(s, axis=-1, keepdims=True) for s in scores]
    peak = jax.tree.reduce(jnp.maximum, peaks)
    weights = [jnp.exp(s - peak) for s in scores]
    sums = [jnp.sum(w, axis=-1, keepdims=True) for w in weights]
    mixed = [
        _contract("kqs,ksd->kqd", _scaled(w, kv.value_scale), kv.values, dtype)
        for w, (kv, _) in zip(weights, sources, strict=True)
    ]
    total = jax.tree.reduce(jnp.add, sums)
    return jax.tree.reduce(jnp.add, mixed) / total, (peak + jnp.log(total))[..., 0]


def _scores(
    query: Rows, keys: Shaped[Array, "..."] | TiledMatrix, dtype: DTypeLike
) -> Float[Array, "kv_head row column"]:
    if not isinstance(keys, TiledMatrix):
        return _contract("kqd,kds->kqs", query, keys, dtype)
    kv_heads, rows, _ = query.shape
    shape = kv_heads, keys.tiles.shape[1], *query.shape[1:]
    query = jnp.broadcast_to(query[:, None], shape)
    scores = _contract("ktqd,ktds->ktqs", query, keys.tiles, dtype)
    return jnp.moveaxis(scores, 1, 2).reshape(kv_heads, rows, -1)


def _plain_gradient(
    query: Rows,
    sources: tuple[Columns, ...],
    mixed: Rows,
    normalizer: Float[Array, "kv_head row"],
    gradient: Rows,
) -> tuple[Rows, tuple[tuple[Array, Array], ...]]:
    """Of the queries, and of each source's keys and values.

        dv = pᵀ dout,    ds = p (dout vᵀ - Σ out dout),    dq = ds k,    dk = dsᵀ q

    Weights are computed again: nothing of rows times columns is kept.
    """
    dtype = query.dtype
    wide = lambda x: x.astype(jnp.float32)
    shared = row_products(wide(mixed), wide(gradient))[..., None]
    of_query, of_sources = jnp.zeros(query.shape, jnp.float32), []
    for keys, values, visible in sources:
        scores = _contract("kqd,kds->kqs", query, keys, dtype)
        weights = jnp.exp(_visible(visible, scores - normalizer[..., None]))
        change = _contract("kqd,ksd->kqs", gradient, values, dtype) - shared
        change = weights * change
        of_query += _contract("kqs,kds->kqd", change, keys, dtype)
        of_keys = _contract("kqd,kqs->kds", query, change, dtype)
        of_values = _contract("kqs,kqd->ksd", weights, gradient, dtype)
        of_sources.append((of_keys.astype(keys.dtype), of_values.astype(values.dtype)))
    return of_query.astype(dtype), tuple(of_sources)


def _visible(
    mask: Bool[Array, "#chunk column"], scores: Float[Array, "kv_head row column"]
) -> Float[Array, "kv_head row column"]:
    """Scores of what a row's token sees, and -inf elsewhere."""
    repeats = scores.shape[1] // mask.shape[0]
    return jnp.where(jnp.repeat(mask, repeats, axis=0)[None], scores, -jnp.inf)


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
