"""The forward pass of one chunk, through stacks of layers."""

import functools as ft
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PyTree

from ...policy import Past
from ...sharding import spmd
from ...types import Axes
from ..attention import (
    attend,
    capped,
    KVCache,
    Source,
)
from ..matrix import from_bits, Matrix, multiply, TiledMatrix
from ._config import TransformerConfig
from ._layers import (
    ACTIVATIONS,
    add_bias,
    add_residual,
    apply_rotary,
    masks_and_angles,
    norm_of,
    RotaryCosSin,
    select_kind,
)
from ._remat import ATTENTION_PROJECTIONS, rematerialize
from ._weights import Layers, weight_axes


Caches = tuple[PyTree, ...]
"""A `KVCache` for each stack of layers and, with windows, every column's position.

Positions are `[1 column]`, float32, which is exact for them and has cotangents.
"""

MAX_UNROLLED_LAYERS_ON_GPU = 64
"""A GPU unrolls models of at most so many layers, where nothing is auto-sharded.

A scan copies what a layer saves for the backward pass into stacks, and out of them; but
every unrolled layer is compiled.
"""


class Architecture(NamedTuple):
    """The static settings of a forward pass.

    **Fields:**

    - `config`: the shape.
    - `compute_dtype`: of the operands of every matrix product.
    - `remat`: the name of the rematerialization policy.
    """

    config: TransformerConfig
    compute_dtype: str
    remat: str


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
) -> tuple[Float[Array, "chunk hidden"], Caches]:
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

    **Returns:** the hidden states after the last norm, and a cache for each stack.
    """
    config, dtype = architecture.config, architecture.compute_dtype
    of_kinds = masks_and_angles(config, positions, past, visible)

    def layer(caches, kind, x, scanned):
        weights, own_caches, number, own_kind = scanned
        caches = own_caches if number is None else caches
        cos_sin, masks = select_kind(kind if own_kind is None else own_kind, of_kinds)
        weights = from_bits(weights, dtype)
        query, own = _project(architecture, weights, x, positions, cos_sin)
        own = store(own)
        *past_masks, own_mask = masks
        sources = [
            Source(cache, mask, number, one.pages)
            for cache, mask, one in zip(caches, past_masks, past, strict=True)
        ]
        scale, cap = config.switches.attention_scale, config.switches.attention_cap
        sources.append(Source(own, own_mask))
        attended = attend(query, sources, dtype, scale=scale, cap=cap)
        x = _add_attention(architecture, weights, x, attended)
        x = spmd.replicate(_add_mlp(architecture, weights, x))
        return x, own

    unrolled = _is_unrolled(config)
    remat = ft.partial(rematerialize, remat=architecture.remat, scanned=not unrolled)
    x = _embed(architecture, embedding, tokens)
    # Caches are only read by the scan. As its carry, one would be copied for every
    # layer of every token.
    written, first = [], 0
    for stack, layers in enumerate(stacks):
        caches = [one.cache[stack] for one in past]
        kinds = config.layer_kinds[first : first + layers.depth]
        first += layers.depth
        # Layers of several kinds are one body of the scan, which selects by a scalar.
        kind = kinds[0] if len(set(kinds)) == 1 else None
        scanned_kind = jnp.asarray(kinds, jnp.int32) if kind is None else None
        if reads_blocks and layers.depth > 1:
            # The scan would slice out all columns of a layer, and attention reads few.
            numbers = jnp.arange(layers.depth, dtype=jnp.int32)
            scanned = layers, None, numbers, scanned_kind
            body = ft.partial(layer, caches, kind)
        else:
            scanned = layers, caches, None, scanned_kind
            body = ft.partial(layer, None, kind)
        x, own = jax.lax.scan(remat(body), x, scanned, unroll=unrolled)
        written.append(own)
    if config.has_windows:
        written.append(positions.astype(jnp.float32)[None])
    return norm_of(config, x, norm), tuple(written)


def _embed(
    architecture: Architecture,
    embedding: Float[Array, "vocab hidden"],
    tokens: Int[Array, " chunk"],
) -> Float[Array, "chunk hidden"]:
    """The tokens' embeddings, in the compute dtype's precision, float32."""
    config, dtype = architecture.config, architecture.compute_dtype
    # Rounded to the compute dtype, as the embedding of a decoder is.
    embedding = spmd.all_gather_weight(embedding, weight_axes(config, "embedding"))
    x = embedding[tokens].astype(dtype).astype(jnp.float32)
    if config.embedding_scale is not None:
        x = x * jnp.asarray(config.embedding_scale, dtype).astype(jnp.float32)
    return spmd.replicate(x)


def unembed(
    architecture: Architecture,
    hidden: Float[Array, "*batch hidden"],
    head: Float[Array, "hidden vocab"] | TiledMatrix,
) -> Float[Array, "*batch vocab"]:
    """Logits of hidden states, float32."""
    config = architecture.config
    axes = weight_axes(config, "head")
    logits = multiply(hidden, head, architecture.compute_dtype, axes)
    if config.logits_divisor is not None:
        logits = logits / config.logits_divisor
    return capped(logits, config.logits_cap)


def _is_unrolled(config: TransformerConfig) -> bool:
    on_gpu = spmd.platform() == "gpu" and not spmd.is_auto_sharded()
    return on_gpu and config.num_layers <= MAX_UNROLLED_LAYERS_ON_GPU


def _product(
    architecture: Architecture,
    x: Float[Array, "chunk inputs"],
    matrix: Matrix,
    name: str,
    result: DTypeLike | None = None,
) -> Float[Array, "chunk outputs"]:
    """A product with one layer's projection."""
    names, pieces = weight_axes(architecture.config, name)
    axes = Axes(names[1:], pieces[1:])
    return multiply(x, matrix, architecture.compute_dtype, axes, result)


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
        y = _product(architecture, normed, weights.projections[name], name)
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
    y = _product(architecture, attended, weights.output, "output")
    y = checkpoint_name(y, ATTENTION_PROJECTIONS)
    y = add_bias(y, weights.output_bias)
    return add_residual(architecture.config, x, y, weights.attention_post_norm)


def _add_mlp(
    architecture: Architecture, weights: Layers, x: Float[Array, "chunk hidden"]
) -> Float[Array, "chunk hidden"]:
    """The residual stream with the MLP's output."""
    config = architecture.config
    normed = norm_of(config, x, weights.mlp_norm)
    dtype = architecture.compute_dtype
    # The widest arrays of a layer, saved in the dtype that the next product reads.
    gate, up = (
        _product(architecture, normed, matrix, name, dtype).astype(jnp.float32)
        for name, matrix in (("gate", weights.gate), ("up", weights.up))
    )
    gate, up = add_bias(gate, weights.gate_bias), add_bias(up, weights.up_bias)
    hidden = (ACTIVATIONS[config.switches.activation](gate) * up).astype(dtype)
    y = _product(architecture, hidden, weights.down, "down")
    return add_residual(
        config, x, add_bias(y, weights.down_bias), weights.mlp_post_norm
    )
