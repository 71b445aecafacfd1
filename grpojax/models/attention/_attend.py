"""Grouped-query attention over several sources of keys and values.

`_reference` defines it in plain XLA. On an NVIDIA GPU, 16-bit attention runs in one
kernel (`_kernel`), except where the compiler partitions heads or sequences over a mesh:
Pallas kernels cannot be auto-partitioned.
"""

import functools as ft
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, DTypeLike, Float, Shaped

from ...sharding import spmd
from ..matrix import row_products, TiledMatrix
from . import _kernel
from ._blocks import kernel_config, KernelConfig, QueryRows, Source, supports_kernel
from ._cache import dequantize, KVCache


ATTENTION_OUTPUT = "attention_output"
"""The checkpoint name of attention's output and of its other residual."""

CacheSource = tuple[KVCache, Bool[Array, "#chunk _"]]
"""One layer's keys and values, and the mask of columns for each token of the chunk."""


def attend(
    query: Float[Array, "chunk head head_dim"],
    sources: list[CacheSource],
    dtype: DTypeLike,
) -> Float[Array, "chunk features"]:
    """Grouped-query attention over several sources at once, softmax in float32.

    Scores are concatenated, not keys and values: a source shared by many sequences is
    read in place.

    **Arguments:**

    - `query`: rotated queries.
    - `sources`: keys and values with a mask; each token attends to at least one column.
    - `dtype`: of the operands of both products.

    **Returns:** the heads' outputs, concatenated, float32.
    """
    chunk, heads, head_dim = query.shape
    kv_heads = sources[0][0].values.shape[0]
    repeats = heads // kv_heads
    query = (query * head_dim**-0.5).reshape(chunk, kv_heads, repeats, head_dim)
    # A head's queries are the rows of one matrix, on the left: XLA's CPU backend has
    # no fast product for other orders of axes.
    rows = jnp.moveaxis(query, 1, 0).reshape(kv_heads, chunk * repeats, head_dim)
    # The shortest first: it is loaded while the kernel waits for the others.
    sources = sorted(sources, key=lambda source: source[1].shape[-1])
    plain = tuple(
        Source(kv.keys, kv.values, visible)
        for kv, visible in sources
        if kv.key_scale is None and not isinstance(kv.keys, TiledMatrix)
    )
    if len(plain) < len(sources):  # Quantized or tiled by a decoder: no gradients.
        output, _ = _reference(rows, sources, dtype)
    else:
        rows = rows.astype(dtype)
        has_kernel = supports_kernel(head_dim, dtype) and not spmd.is_auto_sharded()
        config = kernel_config(rows, repeats, dtype) if has_kernel else None
        output = jnp.asarray(_attention(config, rows, plain), jnp.float32)
    output = output.reshape(kv_heads, chunk, repeats * head_dim)
    return jnp.moveaxis(output, 0, 1).reshape(chunk, heads * head_dim)


_Output = tuple[QueryRows, Float[Array, "kv_head row"]]
"""Each row's output, and the log-sum-exp of its scores."""


@ft.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    config: KernelConfig | None, query: QueryRows, sources: tuple[Source, ...]
) -> QueryRows:
    """Attention by a Pallas kernel on NVIDIA GPUs if configured, else in plain XLA."""
    return _fwd(config, query, sources)[0]


def _fwd(config: KernelConfig | None, query: QueryRows, sources: tuple[Source, ...]):
    def reference(query, sources) -> _Output:
        pairs = [(KVCache(x.keys, x.values), x.visible) for x in sources]
        output, normalizer = _reference(query, pairs, query.dtype)
        return output.astype(query.dtype), normalizer

    found = _by_platform(config, _kernel.forward, reference, query, sources)
    output, normalizer = (checkpoint_name(x, ATTENTION_OUTPUT) for x in found)
    return output, (query, sources, output, normalizer)


def _bwd(config: KernelConfig | None, residuals, gradient: QueryRows):
    d_query, d_sources = _by_platform(
        config, _kernel.backward, _reference_gradient, *residuals, gradient
    )
    _, sources, *_ = residuals
    cotangents = tuple(
        source._replace(keys=d_keys, values=d_values, visible=None)
        for source, (d_keys, d_values) in zip(sources, d_sources, strict=True)
    )
    return d_query, cotangents


_attention.defvjp(_fwd, _bwd)


def _by_platform(
    config: KernelConfig | None, kernel: Callable, reference: Callable, *operands
):
    if config is None:
        return reference(*operands)
    kernel = ft.partial(kernel, config)
    return jax.lax.platform_dependent(*operands, cuda=kernel, default=reference)


def _reference(
    query: QueryRows, sources: list[CacheSource], dtype: DTypeLike
) -> _Output:
    """Attention in plain XLA; int8 cache scales multiply the scores and the weights."""
    scores = [
        _masked(mask, _scaled(_scores(query, kv.keys, dtype), kv.key_scale))
        for kv, mask in sources
    ]
    peaks = [jnp.max(s, axis=-1, keepdims=True) for s in scores]
    peak = jax.tree.reduce(jnp.maximum, peaks)
    weights = [jnp.exp(s - peak) for s in scores]
    sums = [jnp.sum(w, axis=-1, keepdims=True) for w in weights]
    outputs = [
        _contract("kqs,ksd->kqd", _scaled(w, kv.value_scale), kv.values, dtype)
        for w, (kv, _) in zip(weights, sources, strict=True)
    ]
    total = jax.tree.reduce(jnp.add, sums)
    return jax.tree.reduce(jnp.add, outputs) / total, (peak + jnp.log(total))[..., 0]


def _scores(
    query: QueryRows, keys: Shaped[Array, "..."] | TiledMatrix, dtype: DTypeLike
) -> Float[Array, "kv_head row column"]:
    if not isinstance(keys, TiledMatrix):
        return _contract("kqd,kds->kqs", query, keys, dtype)
    kv_heads, rows, _ = query.shape
    shape = kv_heads, keys.tiles.shape[1], *query.shape[1:]
    query = jnp.broadcast_to(query[:, None], shape)
    scores = _contract("ktqd,ktds->ktqs", query, keys.tiles, dtype)
    return jnp.moveaxis(scores, 1, 2).reshape(kv_heads, rows, -1)


def _reference_gradient(
    query: QueryRows,
    sources: tuple[Source, ...],
    output: QueryRows,
    normalizer: Float[Array, "kv_head row"],
    gradient: QueryRows,
) -> tuple[QueryRows, tuple[tuple[Array, Array], ...]]:
    """Gradients of the queries, and of each source's keys and values.

        dv = pᵀ dout,    ds = p (dout vᵀ - Σ out dout),    dq = ds k,    dk = dsᵀ q

    Weights `p` are recomputed: no array of rows times columns is stored.
    """
    dtype = query.dtype
    wide = lambda x: x.astype(jnp.float32)
    shared = row_products(wide(output), wide(gradient))[..., None]
    d_query, d_sources = jnp.zeros(query.shape, jnp.float32), []
    for keys, values, visible in sources:
        scores = _contract("kqd,kds->kqs", query, keys, dtype)
        weights = jnp.exp(_masked(visible, scores - normalizer[..., None]))
        d_weights = _contract("kqd,ksd->kqs", gradient, values, dtype) - shared
        d_scores = weights * d_weights
        d_query += _contract("kqs,kds->kqd", d_scores, keys, dtype)
        d_keys = _contract("kqd,kqs->kds", query, d_scores, dtype)
        d_values = _contract("kqs,kqd->ksd", weights, gradient, dtype)
        d_sources.append((d_keys.astype(keys.dtype), d_values.astype(values.dtype)))
    return d_query.astype(dtype), tuple(d_sources)


def _masked(
    mask: Bool[Array, "#chunk column"], scores: Float[Array, "kv_head row column"]
) -> Float[Array, "kv_head row column"]:
    """Scores where the mask of a row's token is set, and -inf elsewhere."""
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
    """A product with stored keys or values, accumulated in float32."""
    if jnp.dtype(dtype) == jnp.float32:
        cached = dequantize(cached, dtype)
        return jnp.einsum(formula, x, cached, precision=jax.lax.Precision.HIGHEST)

    def narrow(x, cached):
        x, cached = x.astype(dtype), dequantize(cached, dtype)
        return jnp.einsum(formula, x, cached, preferred_element_type=jnp.float32)

    def wide(x, cached):
        x = x.astype(dtype).astype(jnp.float32)
        if cached.dtype != jnp.float32:
            cached = dequantize(cached, dtype).astype(jnp.float32)
        return jnp.einsum(formula, x, cached)

    # Small batched products are slower on a CPU in 16 bits than in 32.
    return jax.lax.platform_dependent(x, cached, cpu=wide, default=narrow)
