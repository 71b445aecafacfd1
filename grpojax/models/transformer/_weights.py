"""The transformer's weights, and the logical axes by which they are sharded."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PyTree

from ...types import Axes
from ..matrix import AbstractMatrix, Matrix
from ._config import TransformerConfig


PROJECTIONS = ("query", "key", "value", "output", "gate", "up", "down")
"""The names of a layer's matrices, other than its experts'."""

EXPERTS = ("expert_gate", "expert_up", "expert_down")
"""The names of the matrices of a layer's experts."""

_DENSE = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")
SHARED = ("shared_gate", "shared_up", "shared_down")
"""The names of the matrices of the expert that every token has."""

EXPERT_BIASES = ("expert_gate_bias", "expert_up_bias", "expert_down_bias")
"""The names of the biases of a layer's experts."""

_SPARSE = ("router", "router_bias", *EXPERTS, *EXPERT_BIASES, "shared_router", *SHARED)


_Other = AbstractMatrix  # Than an array.


class Layers(eqx.Module):
    """The weights of every layer, stacked on a leading `layer` axis.

    Matrices are stored input-first (`x @ weight`), or are modules that represent such
    arrays; biases and norms are `None` where the family has none. Where some layers
    have experts and others an MLP, the arrays of either are stacked over the layers
    that have them.
    """

    attention_norm: Float[Array, "layer hidden"] | None
    query: Float[Array, "layer hidden query"] | _Other
    key: Float[Array, "layer hidden kv"] | _Other
    value: Float[Array, "layer hidden kv"] | _Other
    output: Float[Array, "layer query hidden"] | _Other
    query_bias: Float[Array, "layer query"] | None
    key_bias: Float[Array, "layer kv"] | None
    value_bias: Float[Array, "layer kv"] | None
    query_norm: Float[Array, "layer head_dim"] | Float[Array, "layer query"] | None
    key_norm: Float[Array, "layer head_dim"] | Float[Array, "layer kv"] | None
    mlp_norm: Float[Array, "layer hidden"] | None
    gate: Float[Array, "dense hidden mlp"] | _Other | None
    up: Float[Array, "dense hidden mlp"] | _Other | None
    down: Float[Array, "dense mlp hidden"] | _Other | None
    output_bias: Float[Array, "layer hidden"] | None = None
    attention_post_norm: Float[Array, "layer hidden"] | None = None
    gate_bias: Float[Array, "dense mlp"] | None = None
    up_bias: Float[Array, "dense mlp"] | None = None
    down_bias: Float[Array, "dense hidden"] | None = None
    mlp_post_norm: Float[Array, "layer hidden"] | None = None
    router: Float[Array, "sparse hidden expert"] | None = None
    expert_gate: Float[Array, "sparse expert hidden width"] | _Other | None = None
    expert_up: Float[Array, "sparse expert hidden width"] | _Other | None = None
    expert_down: Float[Array, "sparse expert width hidden"] | _Other | None = None
    attention_sinks: Float[Array, "layer head"] | None = None
    router_bias: Float[Array, "sparse expert"] | None = None
    expert_gate_bias: Float[Array, "sparse expert width"] | None = None
    expert_up_bias: Float[Array, "sparse expert width"] | None = None
    expert_down_bias: Float[Array, "sparse expert hidden"] | None = None
    shared_router: Float[Array, "sparse hidden one"] | None = None
    shared_gate: Float[Array, "sparse hidden shared"] | _Other | None = None
    shared_up: Float[Array, "sparse hidden shared"] | _Other | None = None
    shared_down: Float[Array, "sparse shared hidden"] | _Other | None = None

    @property
    def depth(self) -> int:
        """The number of layers."""
        return jax.tree.leaves(self)[0].shape[0]

    @property
    def projections(self) -> dict[str, Matrix]:
        """The matrices that there are by name, in the order of `PROJECTIONS`."""
        names = (*PROJECTIONS, *EXPERTS, *SHARED)
        fields = {name: getattr(self, name) for name in names}
        return {name: x for name, x in fields.items() if x is not None}

    def map_projections(self, function: Callable[[str, Matrix], Matrix]) -> "Layers":
        """The layers with `function(name, matrix)` in the place of every matrix."""
        mapped = {name: function(name, x) for name, x in self.projections.items()}
        return dataclasses.replace(self, **mapped)

    def split_mlps(self) -> tuple["Layers", list[dict[str, PyTree]]]:
        """The layers without what only some have; that of MLPs, and that of experts.

        Both are empty if all layers have the same.
        """
        if self.gate is None or self.router is None:
            return self, []
        parts = [{name: getattr(self, name) for name in x} for x in (_DENSE, _SPARSE)]
        none = dict.fromkeys((*_DENSE, *_SPARSE))
        return dataclasses.replace(self, **none), parts


def initial_layers(
    config: TransformerConfig, matrix: Callable[..., Array], dtype: DTypeLike
) -> Layers:
    """Layers whose norms change nothing and whose biases are zero.

    **Arguments:**

    - `config`: the shape.
    - `matrix`: draws one of a given shape.
    - `dtype`: of norms and biases.
    """
    block, layers, hidden = config.switches, config.num_layers, config.hidden_size
    query = config.num_heads * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    mlp = config.intermediate_size
    before, after = block.norms != "after", block.norms != "before"
    joint = block.qk_norm_over_heads
    dense = layers - sum(config.has_experts)

    def norm(present: bool, size: int) -> Array | None:
        one = 1 - block.norm_offset
        return jnp.full((layers, size), one, dtype) if present else None

    def bias(present: bool, *size: int, layers: int = layers) -> Array | None:
        return jnp.zeros((layers, *size), dtype) if present and layers else None

    def in_mlp(*shape: int) -> Array | None:
        return matrix(dense, *shape) if dense else None

    return Layers(
        attention_norm=norm(before, hidden),
        query=matrix(layers, hidden, query),
        key=matrix(layers, hidden, kv),
        value=matrix(layers, hidden, kv),
        output=matrix(layers, query, hidden),
        query_bias=bias(config.qkv_bias, query),
        key_bias=bias(config.qkv_bias, kv),
        value_bias=bias(config.qkv_bias, kv),
        query_norm=norm(config.qk_norm, query if joint else config.head_dim),
        key_norm=norm(config.qk_norm, kv if joint else config.head_dim),
        mlp_norm=norm(before, hidden),
        gate=in_mlp(hidden, mlp),
        up=in_mlp(hidden, mlp),
        down=in_mlp(mlp, hidden),
        output_bias=bias(block.output_bias, hidden),
        attention_post_norm=norm(after, hidden),
        gate_bias=bias(block.mlp_bias, mlp, layers=dense),
        up_bias=bias(block.mlp_bias, mlp, layers=dense),
        down_bias=bias(block.mlp_bias, hidden, layers=dense),
        mlp_post_norm=norm(after, hidden),
        attention_sinks=bias(block.attention_sinks, config.num_heads),
        **_initial_experts(config, matrix, bias),
    )


def _initial_experts(
    config: TransformerConfig,
    matrix: Callable[..., Array],
    bias: Callable[..., Array | None],
) -> dict[str, Array | None]:
    """What layers with experts have; nothing in a model without any."""
    experts = config.switches.experts
    if experts is None:
        return {}
    layers, hidden = sum(config.has_experts), config.hidden_size
    count, size, shared = experts.count, experts.size, experts.shared
    found: dict[str, Array | None] = dict(
        router=matrix(layers, hidden, count),
        expert_gate=matrix(layers, count, hidden, size),
        expert_up=matrix(layers, count, hidden, size),
        expert_down=matrix(layers, count, size, hidden),
    )
    if experts.biases:
        found |= dict(
            router_bias=bias(True, count, layers=layers),
            expert_gate_bias=bias(True, count, size, layers=layers),
            expert_up_bias=bias(True, count, size, layers=layers),
            expert_down_bias=bias(True, count, hidden, layers=layers),
        )
    if shared is not None:
        found |= dict(
            shared_router=matrix(layers, hidden, 1),
            shared_gate=matrix(layers, hidden, shared),
            shared_up=matrix(layers, hidden, shared),
            shared_down=matrix(layers, shared, hidden),
        )
    return found


# Every sharding is derived from these. Norms and biases follow their output.
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
    "output_bias": ("layer", "norm"),
    "attention_post_norm": ("layer", "norm"),
    "gate_bias": ("layer", "mlp"),
    "up_bias": ("layer", "mlp"),
    "down_bias": ("layer", "norm"),
    "mlp_post_norm": ("layer", "norm"),
    "router": ("layer", "hidden", "norm"),
    "expert_gate": ("layer", "expert", "hidden", "expert_mlp"),
    "expert_up": ("layer", "expert", "hidden", "expert_mlp"),
    "expert_down": ("layer", "expert", "expert_mlp", "hidden"),
    "attention_sinks": ("layer", "heads"),
    "router_bias": ("layer", "norm"),
    "expert_gate_bias": ("layer", "expert", "expert_mlp"),
    "expert_up_bias": ("layer", "expert", "expert_mlp"),
    "expert_down_bias": ("layer", "norm", "norm"),
    "shared_router": ("layer", "hidden", "norm"),
    "shared_gate": ("layer", "hidden", "mlp"),
    "shared_up": ("layer", "hidden", "mlp"),
    "shared_down": ("layer", "mlp", "hidden"),
}
"""The names of each weight's axes."""


def weight_axes(config: TransformerConfig, weight: str) -> Axes:
    """The logical axes of a weight; an axis of heads is only split between heads."""
    experts = config.switches.experts
    pieces = {
        "layer": config.num_layers,
        "vocab": config.vocab_size,
        "hidden": config.hidden_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "mlp": config.intermediate_size,
        "norm": 1,
        "expert": experts.count if experts else 1,
        "expert_mlp": experts.size if experts else 1,
    }
    if experts and experts.shared and weight in SHARED:
        pieces["mlp"] = experts.shared
    names = LOGICAL_AXES[weight]
    return Axes(names, tuple(pieces[name] for name in names))


def logical_axes(policy: PyTree, config: TransformerConfig) -> PyTree[Axes]:
    """The tree with the logical axes of every array, by the last field on its path."""
    is_matrix = lambda x: isinstance(x, AbstractMatrix)

    def axes(path: tuple, weight: object) -> PyTree[Axes]:
        own = weight_axes(config, path[-1].name)
        return weight.logical_axes(own) if isinstance(weight, AbstractMatrix) else own

    return jax.tree_util.tree_map_with_path(axes, policy, is_leaf=is_matrix)
