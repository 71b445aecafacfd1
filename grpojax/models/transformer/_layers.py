"""Norms, rotary embeddings, activations, masks of kinds of layers, and both ends."""

import functools as ft

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ...policy import Past
from ...sharding import spmd
from ..attention import attend, block_mask, BlockMask, capped, KVCache, Source
from ..matrix import as_matrix, Matrix, row_products
from ._architecture import Architecture
from ._config import TransformerConfig
from ._rope import Rope
from ._weights import weight_axes


def rms_norm(
    x: Float[Array, "*batch features"], scale: Float[Array, " features"], eps: float
) -> Float[Array, "*batch features"]:
    """x / sqrt(mean(x²) + eps) · scale, in float32 (arXiv:1910.07467)."""
    return jnp.asarray(_norm(x, scale, eps))


@ft.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _norm(x: Array, scale: Array, eps: float) -> Array:
    return _fwd(x, scale, eps)[0]


def _fwd(x: Array, scale: Array, eps: float):
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    normalized = x * jax.lax.rsqrt(variance + eps)
    scaled = normalized * jnp.broadcast_to(scale.astype(jnp.float32), x.shape)
    return scaled, (x, scale)


def _bwd(eps: float, residuals: tuple[Array, Array], gradient: Array):
    """With y = x r and r = 1 / sqrt(mean(x²) + eps):

    dx = r (g scale - y mean(g scale y)),    dscale = Σ g y
    """
    x, scale = residuals
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + eps)
    d_normalized = gradient * jnp.broadcast_to(scale.astype(jnp.float32), x.shape)
    shared = row_products(d_normalized, x)[..., None] / x.shape[-1]
    d_x = inverse * (d_normalized - x * (jnp.square(inverse) * shared))
    d_scale = jnp.sum(gradient * x * inverse, axis=tuple(range(x.ndim - 1)))
    return d_x.astype(x.dtype), d_scale.astype(scale.dtype)


_norm.defvjp(_fwd, _bwd)


RotaryCosSin = tuple[Float[Array, "chunk half"], Float[Array, "chunk half"]]
"""Cosines and sines of the rotary angles."""


def rotary_cos_sin(
    positions: Int[Array, " chunk"], rope: Rope, head_dim: int
) -> RotaryCosSin:
    """cos/sin of the rotary angles, position · frequency_i; shared by all layers.

    Past the limit of the rope they are NaN, so that no such number goes unnoticed.
    """
    inverse_frequency = rope.inverse_frequency(head_dim)
    angle = positions.astype(jnp.float32)[:, None] * inverse_frequency[None, :]
    if rope.limit is not None:
        angle = jnp.where(positions[:, None] < rope.limit, angle, jnp.nan)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if rope.amplitude != 1:
        cos, sin = rope.amplitude * cos, rope.amplitude * sin
    return _prevent_rematerialization(cos), _prevent_rematerialization(sin)


def rotary_of_kinds(
    positions: Int[Array, " chunk"], config: TransformerConfig
) -> list[RotaryCosSin | None]:
    """cos/sin for each kind of layers; a layer without a rope turns by 0.

    `None` where no layer has one.
    """
    known: dict[Rope | None, RotaryCosSin] = {
        rope: rotary_cos_sin(positions, rope, config.head_dim)
        for rope in config.ropes
        if rope is not None
    }
    if known and None in config.ropes:
        cos, sin = next(iter(known.values()))
        known[None] = jnp.ones_like(cos), jnp.zeros_like(sin)
    return [known.get(kind.rope) for kind in config.kinds]


def _prevent_rematerialization(
    x: Float[Array, "chunk half"],
) -> Float[Array, "chunk half"]:
    """Identity that keeps XLA:CPU from rematerializing cos/sin in unrolled layers.

    It considers them cheap and computes them again for every head of every layer; a
    product with the identity matrix it does not repeat.
    """
    identity = jnp.eye(x.shape[1])
    product = lambda x: jnp.matmul(x, identity, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.platform_dependent(x, cpu=product, default=lambda x: x)


def apply_rotary(
    x: Float[Array, "chunk head head_dim"], cos_sin: RotaryCosSin
) -> Float[Array, "chunk head head_dim"]:
    """Rotary position embedding of queries or keys.

    The feature pairs (i, i + half) are rotated by position · frequency_i, and features
    beyond them are left as they are.

    Source: arXiv:2104.09864, in the half-split layout of Hugging Face checkpoints.
    """
    cos, sin = (x[:, None, :] for x in cos_sin)
    rotated, rest = x, []
    if 2 * cos.shape[-1] < x.shape[-1]:
        rotated, *rest = jnp.split(x, [2 * cos.shape[-1]], axis=-1)
    first, second = jnp.split(rotated, 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin, *rest], axis=-1
    )


ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": ft.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": ft.partial(jax.nn.gelu, approximate=True),
}
"""The functions of a gate, by the name that Hugging Face gives them."""


def add_residual(
    config: TransformerConfig,
    x: Float[Array, "chunk hidden"],
    y: Float[Array, "chunk hidden"],
    norm: Float[Array, " hidden"] | None,
) -> Float[Array, "chunk hidden"]:
    """The residual stream with one more summand, normed and scaled."""
    y = norm_of(config, y, norm)
    scale = config.switches.residual_scale
    return x + (y if scale == 1 else scale * y)


def add_bias(
    x: Float[Array, "chunk features"], bias: Float[Array, " features"] | None
) -> Float[Array, "chunk features"]:
    """x + bias; `x` where there is none."""
    return x if bias is None else x + bias.astype(jnp.float32)[None]


def norm_of(
    config: TransformerConfig,
    x: Float[Array, "*batch features"],
    scale: Float[Array, " features"] | None,
) -> Float[Array, "*batch features"]:
    """The RMS norm of a family; `x` where there is none."""
    if scale is None:
        return x
    offset = config.switches.norm_offset
    scale = scale.astype(jnp.float32) + offset if offset else scale
    return rms_norm(x, scale, config.norm_eps)


OfKind = tuple[RotaryCosSin | None, list[BlockMask]]
"""The rotary angles of a kind of layers, and its mask of every source of keys."""


def masks_and_angles(
    config: TransformerConfig,
    positions: Int[Array, " chunk"],
    past: tuple[Past, ...],
    visible: Bool[Array, "chunk chunk"] | None,
) -> list[OfKind]:
    """The rotary angles and the masks of every kind of layers."""
    count = positions.shape[0]
    if visible is None:
        visible = jnp.tril(jnp.ones((count, count), bool))
    sees = [one.visible for one in past] + [visible]
    if config.has_windows:  # A window's mask has a row for every token.
        sees = [jnp.broadcast_to(x, (count, x.shape[1])) for x in sees]
    # Blocks of a cache in pages are as wide as its pages.
    widths = [
        one.pages if one.pages is None else one.visible.shape[1] // one.pages.shape[0]
        for one in past
    ]
    known = {}
    for window in dict.fromkeys(kind.window for kind in config.kinds):
        seen = sees
        if window is not None:
            own = positions.astype(jnp.float32)
            columns = [*map(_column_positions, past), own]
            seen = [
                x & (own[:, None] - at[None] < window)
                for x, at in zip(sees, columns, strict=True)
            ]
        known[window] = [
            block_mask(one, count, width, slides=config.has_windows)
            for one, width in zip(seen, [*widths, None], strict=True)
        ]
    angles = rotary_of_kinds(positions, config)
    masks = [known[kind.window] for kind in config.kinds]
    return list(zip(angles, masks, strict=True))


def _column_positions(past: Past) -> Float[Array, " column"]:
    """The position of every column that a chunk attends to, if they are stored."""
    positions = past.cache[-1][0]
    if past.pages is None:
        return positions
    width = past.visible.shape[1] // past.pages.shape[0]
    return positions.reshape(-1, width)[past.pages].reshape(-1)


def select_kind(kind: int | Int[Array, ""], of_kinds: list[OfKind]) -> OfKind:
    """What belongs to one kind, which a scan may know only at run time."""
    if isinstance(kind, int):
        return of_kinds[kind]
    return jax.tree.map(lambda *xs: jax.lax.select_n(kind, *xs), *of_kinds)


def sources_of(
    past: tuple[Past, ...],
    caches: list[KVCache],
    own: KVCache,
    masks: list[BlockMask],
    number: Int[Array, ""] | None,
) -> list[Source]:
    """What a layer's tokens attend to: the caches of `past`, and their own."""
    *past_masks, own_mask = masks
    sources = [
        Source(cache, mask, number, one.pages)
        for cache, mask, one in zip(caches, past_masks, past, strict=True)
    ]
    return [*sources, Source(own, own_mask)]


def attend_to(
    architecture: Architecture,
    query: Float[Array, "chunk head head_dim"],
    sources: list[Source],
    sink_scores: Float[Array, " head"] | None,
) -> Float[Array, "chunk query"]:
    """Attention to all sources at once."""
    block, dtype = architecture.config.switches, architecture.compute_dtype
    scale, cap = block.attention_scale, block.attention_cap
    return attend(query, sources, dtype, scale=scale, cap=cap, sink_scores=sink_scores)


def embed(
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
    head: Matrix,
) -> Float[Array, "*batch vocab"]:
    """Logits of hidden states, float32."""
    config = architecture.config
    axes = weight_axes(config, "head")
    logits = as_matrix(head).multiply(hidden, architecture.compute_dtype, axes)
    if config.logits_divisor is not None:
        logits = logits / config.logits_divisor
    return capped(logits, config.logits_cap)
