"""Attention in plain XLA, over all columns at once."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from ..matrix import row_products
from ._products import contract, masked, QueryRows, scaled, scores
from ._source import Source


def forward(
    query: QueryRows, sources: Sequence[Source], dtype: DTypeLike
) -> tuple[QueryRows, Float[Array, "kv_head row"]]:
    """As `_blockwise.forward`; scores are concatenated, not keys and values."""
    caches = [source.all() for source in sources]
    found = [
        masked(x.visible.rows, scaled(scores(query, kv.keys, dtype), kv.key_scale))
        for x, kv in zip(sources, caches, strict=True)
    ]
    peaks = [jnp.max(s, axis=-1, keepdims=True) for s in found]
    peak = jax.tree.reduce(jnp.maximum, peaks)
    weights = [jnp.exp(s - peak) for s in found]
    sums = [jnp.sum(w, axis=-1, keepdims=True) for w in weights]
    outputs = [
        contract("kqs,ksd->kqd", scaled(w, kv.value_scale), kv.values, dtype)
        for w, kv in zip(weights, caches, strict=True)
    ]
    total = jax.tree.reduce(jnp.add, sums)
    return jax.tree.reduce(jnp.add, outputs) / total, (peak + jnp.log(total))[..., 0]


def gradient(
    query: QueryRows,
    sources: Sequence[Source],
    output: QueryRows,
    normalizer: Float[Array, "kv_head row"],
    cotangent: QueryRows,
) -> tuple[QueryRows, tuple[tuple[Array, Array], ...]]:
    """As `_blockwise.gradient`."""
    dtype = query.dtype
    wide = lambda x: x.astype(jnp.float32)
    shared = row_products(wide(output), wide(cotangent))[..., None]
    d_query, d_sources = jnp.zeros(query.shape, jnp.float32), []
    for source in sources:
        keys, values = source.exact
        found = contract("kqd,kds->kqs", query, keys, dtype) - normalizer[..., None]
        weights = jnp.exp(masked(source.visible.rows, found))
        d_weights = contract("kqd,ksd->kqs", cotangent, values, dtype) - shared
        d_scores = weights * d_weights
        d_query += contract("kqs,kds->kqd", d_scores, keys, dtype)
        d_keys = contract("kqd,kqs->kds", query, d_scores, dtype)
        d_values = contract("kqs,kqd->ksd", weights, cotangent, dtype)
        d_sources.append((d_keys.astype(keys.dtype), d_values.astype(values.dtype)))
    return d_query.astype(dtype), tuple(d_sources)
