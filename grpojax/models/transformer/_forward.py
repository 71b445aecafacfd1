"""The forward pass of one chunk, through stacks of layers."""

import functools as ft
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...policy import ExpertUse, Past
from ...sharding import spmd
from ..attention import (
    KVCache,
)
from ..matrix import from_bits
from ._architecture import (
    Architecture,
    ATTENTION_PROJECTIONS,
    layer_product,
    rematerialize,
)
from ._config import TransformerConfig
from ._layers import (
    add_bias,
    add_residual,
    apply_rotary,
    attend_to,
    embed,
    masks_and_angles,
    norm_of,
    RotaryCosSin,
    select_kind,
    sources_of,
)
from ._weights import Layers
from .mlp import add_mlp, mlp_numbers, no_use


Caches = tuple[PyTree, ...]
"""A `KVCache` for each stack of layers and, with windows, every column's position.

Positions are `[1 column]`, float32, which is exact for them and has cotangents.
"""

MAX_UNROLLED_LAYERS_ON_GPU = 64
"""A GPU unrolls models of at most so many layers, where nothing is auto-sharded.

A scan copies what a layer saves for the backward pass into stacks, and out of them; but
every unrolled layer is compiled.
"""


def forward(
    architecture: Architecture,
    embedding: Float[Array, "vocab hidden"],
    stacks: tuple[Layers, ...],
    norm: Float[Array, " hidden"],
    tokens: Int[Array, " chunk"],
    positions: Int[Array, " chunk"],
    past: tuple[Past[Caches], ...],
    visible: Bool[Array, "chunk chunk"] | None,
    store: Callable[[KVCache], KVCache],
    reads_blocks: bool = False,
    routes: bool = False,
) -> tuple[Float[Array, "chunk hidden"], Caches, ExpertUse | None]:
    """Hidden states and caches of a chunk.

    **Arguments:**

    - `architecture`: the static settings.
    - `embedding`, `norm`: the weights outside of the layers.
    - `stacks`: the layers; arrays may be the bits of 16-bit floats.
    - `tokens`, `positions`, `past`, `visible`: as for `AbstractPolicy.extend`.
    - `store`: converts exact keys and values to their stored form, such as 8 bits. Each
        token attends to the stored form, that of its own chunk included.
    - `reads_blocks`: reads the blocks of columns of `past` that are visible out of all
        layers' columns; such a cache has no gradient.
    - `routes`: whether the use of experts is returned.

    **Returns:** the hidden states after the last norm, a cache for each stack, and the
    use of experts if asked for.
    """
    config, dtype = architecture.config, architecture.compute_dtype
    of_kinds = masks_and_angles(config, positions, past, visible)

    def layer(caches, kind, mlps, carry, scanned):
        x, use = carry
        weights, own_caches, number, own_kind, own_mlp = scanned
        caches = own_caches if number is None else caches
        cos_sin, masks = select_kind(kind if own_kind is None else own_kind, of_kinds)
        weights = from_bits(weights, dtype)
        query, own = _project(architecture, weights, x, positions, cos_sin)
        own = store(own)
        sources = sources_of(past, caches, own, masks, number)
        attended = attend_to(architecture, query, sources, weights.attention_sinks)
        x = _add_attention(architecture, weights, x, attended)
        x, use = add_mlp(architecture, weights, (x, use), mlps, own_mlp)
        return (spmd.replicate(x), use), own

    unrolled = _is_unrolled(config)
    remat = ft.partial(rematerialize, remat=architecture.remat, scanned=not unrolled)
    use = no_use(config, tokens.shape[0]) if routes else None
    carry = embed(architecture, embedding, tokens), use
    # Caches are only read by the scan. As its carry, one would be copied for every
    # layer of every token.
    written, first = [], 0
    for stack, layers in enumerate(stacks):
        caches = [one.cache[stack] for one in past]
        depth = layers.depth
        kinds = config.layer_kinds[first : first + depth]
        layers, mlps = layers.split_mlps()
        own_mlp = mlp_numbers(config.has_experts[first:][:depth]) if mlps else None
        first += depth
        # Layers of several kinds are one body of the scan, which selects by a scalar.
        kind = kinds[0] if len(set(kinds)) == 1 else None
        scanned_kind = jnp.asarray(kinds, jnp.int32) if kind is None else None
        shared, numbers = None, None
        if reads_blocks and depth > 1:
            # The scan would slice out all columns of a layer, and attention reads few.
            numbers = jnp.arange(depth, dtype=jnp.int32)
            shared, caches = caches, None
        scanned = layers, caches, numbers, scanned_kind, own_mlp
        body = ft.partial(layer, shared, kind, mlps)
        carry, own = jax.lax.scan(remat(body), carry, scanned, unroll=unrolled)
        written.append(own)
    if config.has_windows:
        written.append(positions.astype(jnp.float32)[None])
    x, use = carry
    return norm_of(config, x, norm), tuple(written), use


def _is_unrolled(config: TransformerConfig) -> bool:
    on_gpu = spmd.platform() == "gpu" and not spmd.is_auto_sharded()
    return on_gpu and config.num_layers <= MAX_UNROLLED_LAYERS_ON_GPU


def _project(
    architecture: Architecture,
    weights: Layers,
    x: Float[Array, "chunk hidden"],
    positions: Int[Array, " chunk"],
    cos_sin: RotaryCosSin | None,
) -> tuple[Float[Array, "chunk head head_dim"], KVCache]:
    """Rotated queries, and one layer's keys and values."""
    config, dtype = architecture.config, architecture.compute_dtype
    normed = norm_of(config, x, weights.attention_norm)
    joint = config.switches.qk_norm_over_heads

    def heads(name, bias, norm, count):
        y = layer_product(architecture, normed, weights.projections[name], name)
        y = add_bias(checkpoint_name(y, ATTENTION_PROJECTIONS), bias)
        if joint:
            y = norm_of(config, y, norm)
        y = y.reshape(-1, count, config.head_dim)
        return y if joint else norm_of(config, y, norm)

    query = heads("query", weights.query_bias, weights.query_norm, config.num_heads)
    key = heads("key", weights.key_bias, weights.key_norm, config.num_kv_heads)
    value = heads("value", weights.value_bias, None, config.num_kv_heads)
    if cos_sin is not None:
        query, key = apply_rotary(query, cos_sin), apply_rotary(key, cos_sin)
    if config.switches.query_growth is not None:
        beta, length = config.switches.query_growth
        passed = jnp.floor(positions.astype(jnp.float32) / length)
        query = query * (1 + beta * jnp.log1p(passed))[:, None, None]
    key = jnp.transpose(key.astype(dtype), (1, 2, 0))
    value = jnp.transpose(value.astype(dtype), (1, 0, 2))
    return query, KVCache(key, value)


def _add_attention(
    architecture: Architecture,
    weights: Layers,
    x: Float[Array, "chunk hidden"],
    attended: Float[Array, "chunk query"],
) -> Float[Array, "chunk hidden"]:
    """The residual stream with the heads' outputs."""
    y = layer_product(architecture, attended, weights.output, "output")
    y = checkpoint_name(y, ATTENTION_PROJECTIONS)
    y = add_bias(y, weights.output_bias)
    return add_residual(architecture.config, x, y, weights.attention_post_norm)
