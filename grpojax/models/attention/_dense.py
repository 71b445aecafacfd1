"""Attention in plain XLA, over all columns at once."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

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
