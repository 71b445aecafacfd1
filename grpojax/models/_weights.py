"""What a transformer is made of: its arrays, and the names of their axes."""

import equinox as eqx
from jaxtyping import Array, Float, Shaped

from ._matrix import Int8Matrix, LowRankMatrix, TiledMatrix


class KVCache(eqx.Module):
    """Keys and values of one stream, of a stack of layers.

    A policy that decodes keeps 16-bit floats as their bits: XLA's CPU backend has no
    16-bit float `dynamic-update-slice`, and would convert a whole cache to write one
    column of it. Each axis order is the one that the attention reads in place: a CPU
    reads 32-bit keys in tiles of columns. Where there are scales, keys and values are
    integers that these multiply, one scale for each token and head.
    """

    keys: Shaped[Array, "*layer kv_head head_dim column"] | TiledMatrix
    values: Shaped[Array, "*layer kv_head column head_dim"]
    key_scale: Float[Array, "*layer kv_head column"] | None = None
    value_scale: Float[Array, "*layer kv_head column"] | None = None


PROJECTIONS = ("query", "key", "value", "output", "gate", "up", "down")
"""The matrices of a layer."""

_Other = Int8Matrix | LowRankMatrix | TiledMatrix


class Layers(eqx.Module):
    """The weights of every layer, stacked on a leading `layer` axis.

    Matrices are stored input-first (`x @ weight`), or are modules that stand for such
    arrays; biases and head norms are `None` where the family has none.
    """

    attention_norm: Float[Array, "layer hidden"]
    query: Float[Array, "layer hidden query"] | _Other
    key: Float[Array, "layer hidden kv"] | _Other
    value: Float[Array, "layer hidden kv"] | _Other
    output: Float[Array, "layer query hidden"] | _Other
    query_bias: Float[Array, "layer query"] | None
    key_bias: Float[Array, "layer kv"] | None
    value_bias: Float[Array, "layer kv"] | None
    query_norm: Float[Array, "layer head_dim"] | None
    key_norm: Float[Array, "layer head_dim"] | None
    mlp_norm: Float[Array, "layer hidden"]
    gate: Float[Array, "layer hidden mlp"] | _Other
    up: Float[Array, "layer hidden mlp"] | _Other
    down: Float[Array, "layer mlp hidden"] | _Other


# Said once; every sharding is derived from it. Norms and biases follow their output.
LOGICAL_AXES = {
    "embedding": ("vocab", "hidden"),
    "head": ("hidden", "vocab"),
    "norm": ("norm",),
    "attention_norm": ("layer", "norm"),
    "query": ("layer", "hidden", "heads"),
    "key": ("layer", "hidden", "kv_heads"),
    "value": ("layer", "hidden", "kv_heads"),
    "output": ("layer", "heads", "hidden"),
    "query_bias": ("layer", "heads"),
    "key_bias": ("layer", "kv_heads"),
    "value_bias": ("layer", "kv_heads"),
    "query_norm": ("layer", "norm"),
    "key_norm": ("layer", "norm"),
    "mlp_norm": ("layer", "norm"),
    "gate": ("layer", "hidden", "mlp"),
    "up": ("layer", "hidden", "mlp"),
    "down": ("layer", "mlp", "hidden"),
}
