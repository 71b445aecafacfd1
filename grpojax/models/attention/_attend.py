"""Grouped-query attention over several sources of keys and values.

`_blockwise` computes it in plain XLA and leaves out what nobody sees. On an NVIDIA GPU,
16-bit attention runs in one kernel (`gpu`), except where the compiler partitions heads
or sequences over a mesh: Pallas kernels cannot be auto-partitioned.
"""

import dataclasses
import functools as ft
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, DTypeLike, Float

from ...sharding import spmd
from . import _blockwise, gpu
from ._products import QueryRows
from ._source import Source


ATTENTION_OUTPUT = "attention_output"
"""The checkpoint name of attention's output and of its other residual."""


def attend(
    query: Float[Array, "chunk head head_dim"],
    sources: Sequence[Source],
    dtype: DTypeLike,
    *,
    scale: float | None = None,
    cap: float | None = None,
    sink_scores: Float[Array, " head"] | None = None,
) -> Float[Array, "chunk features"]:
    """Grouped-query attention over several sources at once, softmax in float32.

    A source that is shared by many sequences is read in place.

    **Arguments:**

    - `query`: rotated queries.
    - `sources`: keys and values with a mask; each token attends to at least one column.
    - `dtype`: of the operands of both products.
    - `scale`: multiplies scores; 1 / sqrt(head_dim) by default.
    - `cap`: scores become cap · tanh(score / cap).
    - `sink_scores`: of each head, one more score of the softmax, whose value is zero.

    **Returns:** the heads' outputs, concatenated, float32.
    """
    chunk, heads, head_dim = query.shape
    kv_heads = sources[0].cache.values.shape[-3]
    repeats = heads // kv_heads
    query = (query * (scale or head_dim**-0.5)).reshape(
        chunk, kv_heads, repeats, head_dim
    )
    # A head's queries are the rows of one matrix, on the left: XLA's CPU backend has
    # no fast product for other orders of axes.
    rows = jnp.moveaxis(query, 1, 0).reshape(kv_heads, chunk * repeats, head_dim)
    if sink_scores is not None:
        of_token = sink_scores.astype(jnp.float32).reshape(kv_heads, repeats)
        sink_scores = jnp.tile(of_token, (1, chunk))
    # The shortest first: it is loaded while the kernel waits for the others.
    sources = tuple(sorted(sources, key=lambda source: source.visible.columns))
    if all(source.is_exact for source in sources):
        rows = rows.astype(dtype)
        has_kernel = gpu.supports_kernel(head_dim, dtype) and cap is None
        has_kernel = has_kernel and not spmd.is_auto_sharded()
        config = gpu.kernel_config(rows, repeats, dtype) if has_kernel else None
        output = _attention((config, cap), rows, sources, sink_scores)
        output = jnp.asarray(output, jnp.float32)
    else:
        found = _blockwise.forward(rows, sources, dtype, cap)
        output, _ = _with_sinks(*found, sink_scores)
    output = output.reshape(kv_heads, chunk, repeats * head_dim)
    return jnp.moveaxis(output, 0, 1).reshape(chunk, heads * head_dim)


_SinkScores = Float[Array, "kv_head row"] | None
"""The sink of every row."""


def _with_sinks(
    output: QueryRows, normalizer: Float[Array, "kv_head row"], sink_scores: _SinkScores
) -> tuple[QueryRows, Float[Array, "kv_head row"]]:
    """Attention with one more score in the softmax.

    out · Z / (Z + exp(sink)),    log(Z + exp(sink))
    """
    if sink_scores is None:
        return output, normalizer
    total = jnp.logaddexp(normalizer, sink_scores)
    share = jnp.exp(normalizer - total)[..., None]
    return output * share.astype(output.dtype), total


_Settings = tuple[gpu.KernelConfig | None, float | None]
"""The kernel on NVIDIA GPUs, if there is one, and the cap of scores."""


@ft.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    settings: _Settings,
    query: QueryRows,
    sources: tuple[Source, ...],
    sink_scores: _SinkScores,
) -> QueryRows:
    """Attention by a Pallas kernel on NVIDIA GPUs if configured, else in plain XLA."""
    return _fwd(settings, query, sources, sink_scores)[0]


def _fwd(
    settings: _Settings,
    query: QueryRows,
    sources: tuple[Source, ...],
    sink_scores: _SinkScores,
):
    config, cap = settings

    def plain(query, sources):
        output, normalizer = _blockwise.forward(query, sources, query.dtype, cap)
        return output.astype(query.dtype), normalizer

    def kernel(config, query, sources):
        return gpu.forward(config, query, _masked_caches(sources))

    output, normalizer = _by_platform(config, kernel, plain, query, sources)
    found = _with_sinks(output, normalizer, sink_scores)
    output, normalizer = (checkpoint_name(x, ATTENTION_OUTPUT) for x in found)
    return output, (query, sources, sink_scores, output, normalizer)


def _bwd(settings: _Settings, residuals, cotangent: QueryRows):
    config, cap = settings
    plain = ft.partial(_blockwise.gradient, cap=cap)

    def kernel(config, query, sources, *rest):
        return gpu.backward(config, query, _masked_caches(sources), *rest)

    query, sources, sink_scores, output, normalizer = residuals
    operands = query, sources, output, normalizer, cotangent
    d_query, d_sources = _by_platform(config, kernel, plain, *operands)
    d_sink_scores = None
    if sink_scores is not None:  # A column of the softmax whose value is zero.
        wide = lambda x: x.astype(jnp.float32)
        weight = jnp.exp(sink_scores - normalizer)
        d_sink_scores = -weight * jnp.sum(wide(output) * wide(cotangent), axis=-1)
    cotangents = tuple(
        source._replace(
            cache=dataclasses.replace(source.cache, keys=keys, values=values),
            visible=None,
        )
        for source, (keys, values) in zip(sources, d_sources, strict=True)
    )
    return d_query, cotangents, d_sink_scores


_attention.defvjp(_fwd, _bwd)


def _by_platform(
    config: gpu.KernelConfig | None, kernel: Callable, plain: Callable, *operands
):
    if config is None:
        return plain(*operands)
    cuda = ft.partial(kernel, config)
    return jax.lax.platform_dependent(*operands, cuda=cuda, default=plain)


def _masked_caches(sources: Sequence[Source]) -> tuple[gpu.MaskedCache, ...]:
    return tuple(gpu.MaskedCache(*x.exact, x.visible.rows) for x in sources)
