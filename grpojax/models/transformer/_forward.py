"""The forward pass of one chunk, through stacks of layers."""

import functools as ft
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from ...policy import Past
from ...sharding import spmd
from ...types import Axes
from ..attention import attend, block_mask, BlockMask, KVCache, Source
from ..matrix import from_bits, Matrix, multiply, TiledMatrix
from ._config import TransformerConfig
from ._layers import apply_rotary, rms_norm, rotary_cos_sin, RotaryCosSin
from ._remat import ATTENTION_PROJECTIONS, rematerialize
from ._weights import Layers, weight_axes


Caches = tuple[KVCache, ...]
"""One cache for each stack of layers."""

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
    cos_sin = rotary_cos_sin(positions, config.inverse_frequency)
    if visible is None:
        visible = jnp.tril(jnp.ones((tokens.shape[0],) * 2, bool))

    masks = [_mask_of(one, tokens.shape[0]) for one in past]
    own_mask = block_mask(visible, tokens.shape[0])

    def layer(caches, x, scanned):
        weights, own_caches, number = scanned
        caches = own_caches if number is None else caches
        weights = from_bits(weights, dtype)
        query, own = _project(architecture, weights, x, cos_sin)
        own = store(own)
        sources = [
            Source(cache, mask, number, one.pages)
            for cache, mask, one in zip(caches, masks, past, strict=True)
        ]
        attended = attend(query, [*sources, Source(own, own_mask)], dtype)
        attended = _product(architecture, attended, weights.output, "output")
        x = x + checkpoint_name(attended, ATTENTION_PROJECTIONS)
        x = spmd.replicate(x + _mlp(architecture, weights, x))
        return x, own

    unrolled = _is_unrolled(config)
    remat = ft.partial(rematerialize, remat=architecture.remat, scanned=not unrolled)
    # Rounded to the compute dtype, as the embedding of a decoder is.
    embedding = spmd.all_gather_weight(embedding, weight_axes(config, "embedding"))
    x = embedding[tokens].astype(dtype).astype(jnp.float32)
    x = spmd.replicate(x)
    # Caches are only read by the scan. As its carry, one would be copied for every
    # layer of every token.
    written = []
    for stack, layers in enumerate(stacks):
        caches = [one.cache[stack] for one in past]
        depth = layers.attention_norm.shape[0]
        if reads_blocks and depth > 1:
            # The scan would slice out all columns of a layer, and attention reads few.
            scanned = layers, None, jnp.arange(depth, dtype=jnp.int32)
            body = ft.partial(layer, caches)
        else:
            scanned, body = (layers, caches, None), ft.partial(layer, None)
        x, own = jax.lax.scan(remat(body), x, scanned, unroll=unrolled)
        written.append(own)
    return rms_norm(x, norm, config.norm_eps), tuple(written)


def _mask_of(past: Past, tokens: int) -> BlockMask:
    pages, columns = past.pages, past.visible.shape[1]
    return block_mask(
        past.visible, tokens, None if pages is None else columns // pages.shape[0]
    )


def unembed(
    architecture: Architecture,
    hidden: Float[Array, "*batch hidden"],
    head: Float[Array, "hidden vocab"] | TiledMatrix,
) -> Float[Array, "*batch vocab"]:
    """Logits of hidden states, float32."""
    axes = weight_axes(architecture.config, "head")
    return multiply(hidden, head, architecture.compute_dtype, axes)


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
    cos_sin: RotaryCosSin,
) -> tuple[Float[Array, "chunk head head_dim"], KVCache]:
    """Rotated queries, and one layer's keys and values."""
    config, dtype = architecture.config, architecture.compute_dtype
    normed = rms_norm(x, weights.attention_norm, config.norm_eps)

    def heads(name, bias, norm, count):
        y = _product(architecture, normed, weights.projections[name], name)
        y = checkpoint_name(y, ATTENTION_PROJECTIONS)
        if bias is not None:
            y = y + bias.astype(jnp.float32)[None]
        y = y.reshape(-1, count, config.head_dim)
        return y if norm is None else rms_norm(y, norm, config.norm_eps)

    query = heads("query", weights.query_bias, weights.query_norm, config.num_heads)
    key = heads("key", weights.key_bias, weights.key_norm, config.num_kv_heads)
    value = heads("value", weights.value_bias, None, config.num_kv_heads)
    query, key = apply_rotary(query, cos_sin), apply_rotary(key, cos_sin)
    key = jnp.transpose(key.astype(dtype), (1, 2, 0))
    value = jnp.transpose(value.astype(dtype), (1, 0, 2))
    return query, KVCache(key, value)


def _mlp(
    architecture: Architecture, weights: Layers, x: Float[Array, "chunk hidden"]
) -> Float[Array, "chunk hidden"]:
    normed = rms_norm(x, weights.mlp_norm, architecture.config.norm_eps)
    dtype = architecture.compute_dtype
    # The widest arrays of a layer, saved in the dtype that the next product reads.
    gate, up = (
        _product(architecture, normed, matrix, name, dtype).astype(jnp.float32)
        for name, matrix in (("gate", weights.gate), ("up", weights.up))
    )
    hidden = (jax.nn.silu(gate) * up).astype(dtype)
    return _product(architecture, hidden, weights.down, "down")
