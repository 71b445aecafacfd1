"""The MLP or the experts of a layer, in the residual stream."""

import functools as ft
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ....policy import ExpertUse
from ...experts import (
    apply_experts,
    choose_experts,
    ExpertAxes,
    ExpertBiases,
    ExpertMatrices,
)
from ...matrix import from_bits
from .._architecture import Architecture, layer_axes, layer_product
from .._config import TransformerConfig
from .._layers import ACTIVATIONS, add_bias, add_residual, norm_of
from .._weights import EXPERTS, Layers, PROJECTIONS, SHARED


Carry = tuple[Float[Array, "chunk hidden"], ExpertUse | None]
"""The residual stream, and the sum of the layers' use of experts."""


def no_use(config: TransformerConfig, chunk: int) -> ExpertUse:
    """The use of experts before the first layer."""
    assert config.switches.experts is not None
    zeros = jnp.zeros((chunk, config.switches.experts.count), jnp.float32)
    return ExpertUse(zeros, zeros)


MlpNumber = tuple[Bool[Array, "*layer"], Int[Array, "*layer"]]
"""Whether a layer has experts, and which of the layers like it, it is."""


def mlp_numbers(has_experts: Sequence[bool]) -> MlpNumber:
    """`MlpNumber` of every layer, stacked."""
    sparse = np.asarray(has_experts)
    number = np.where(sparse, np.cumsum(sparse), np.cumsum(~sparse)) - 1
    return jnp.asarray(sparse), jnp.asarray(number, jnp.int32)


def add_mlp(
    architecture: Architecture,
    weights: Layers,
    carry: Carry,
    mlps: list[dict[str, PyTree]],
    own_mlp: MlpNumber | None,
) -> Carry:
    """The residual stream with the output of the MLP or of experts.

    **Arguments:**

    - `weights`: of the layer.
    - `mlps`, `own_mlp`: where some layers have experts: the weights of all MLPs and of
        all experts, and which of them the layer has.
    """

    def add(weights, carry):
        x, use = carry
        normed = norm_of(architecture.config, x, weights.mlp_norm)
        if weights.router is None:
            y = _mlp(architecture, weights, normed, PROJECTIONS[-3:])
        else:
            y, use = _experts(architecture, weights, normed, use)
        return add_residual(architecture.config, x, y, weights.mlp_post_norm), use

    if own_mlp is None:
        return add(weights, carry)
    has_experts, number = own_mlp

    def add_own(mlp, carry):
        own = jax.tree.map(lambda w: w[number], mlp)
        own = from_bits(own, architecture.compute_dtype)
        own = {name: x for name, x in own.items() if x is not None}
        at = lambda weights: tuple(getattr(weights, name) for name in own)
        is_none = lambda x: x is None
        own = eqx.tree_at(at, weights, tuple(own.values()), is_leaf=is_none)
        return add(own, carry)

    dense, sparse = (ft.partial(add_own, mlp) for mlp in mlps)
    return jax.lax.cond(has_experts, sparse, dense, carry)


class _Gated(NamedTuple):
    """Hidden units of a gated MLP."""

    activation: Callable[[Array], Array]

    def __call__(self, gate: Array, up: Array) -> Array:
        return self.activation(gate) * up


class _ClampedGated(NamedTuple):
    """Hidden units of gpt-oss."""

    gain: float
    limit: float

    def __call__(self, gate: Array, up: Array) -> Array:
        gate = jnp.minimum(gate, self.limit)
        up = jnp.clip(up, -self.limit, self.limit)
        return (up + 1) * (gate * jax.nn.sigmoid(self.gain * gate))


def _experts(
    architecture: Architecture,
    weights: Layers,
    normed: Float[Array, "chunk hidden"],
    use: ExpertUse | None,
) -> Carry:
    """The weighted sum of the chosen experts' outputs, and the layers' use of them."""
    block = architecture.config.switches
    experts = block.experts
    assert experts is not None and weights.router is not None
    logits = layer_product(architecture, normed, weights.router, "router")
    logits = add_bias(logits, weights.router_bias)
    routing = choose_experts(logits, experts.chosen, experts.normalizes)
    if use is not None:
        share = 1 / sum(architecture.config.has_experts)
        one_hot = jax.nn.one_hot(routing.expert, experts.count)
        own = ExpertUse(routing.probability, jnp.sum(one_hot, axis=-2))
        use = jax.tree.map(lambda total, x: total + share * x, use, own)
    gated = _Gated(ACTIVATIONS[block.activation])
    y = apply_experts(
        normed,
        routing,
        ExpertMatrices(*(weights.projections[name] for name in EXPERTS)),
        ExpertAxes(*(layer_axes(architecture, name) for name in EXPERTS)),
        gated if experts.clamp is None else _ClampedGated(*experts.clamp),
        architecture.compute_dtype,
        _expert_biases(architecture, weights),
    )
    if weights.shared_router is not None:
        shared = _mlp(architecture, weights, normed, SHARED)
        own = layer_product(
            architecture, normed, weights.shared_router, "shared_router"
        )
        y = y + jax.nn.sigmoid(own) * shared
    return y, use


def _expert_biases(architecture: Architecture, weights: Layers) -> ExpertBiases | None:
    gate, up = weights.expert_gate_bias, weights.expert_up_bias
    down = weights.expert_down_bias
    if gate is None or up is None or down is None:
        return None
    return ExpertBiases(gate, up, down, layer_axes(architecture, "expert_gate_bias"))


def _mlp(
    architecture: Architecture,
    weights: Layers,
    normed: Float[Array, "chunk hidden"],
    names: Sequence[str],
) -> Float[Array, "chunk hidden"]:
    """The output of an MLP, of which `names` are the matrices."""
    config, dtype = architecture.config, architecture.compute_dtype
    matrices = weights.projections
    biases = [getattr(weights, f"{name}_bias", None) for name in names]
    # The widest arrays of a layer, saved in the dtype that the next product reads.
    gate, up = (
        layer_product(architecture, normed, matrices[name], name, dtype).astype(
            jnp.float32
        )
        for name in names[:2]
    )
    gate, up = add_bias(gate, biases[0]), add_bias(up, biases[1])
    hidden = (ACTIVATIONS[config.switches.activation](gate) * up).astype(dtype)
    y = layer_product(architecture, hidden, matrices[names[2]], names[2])
    return add_bias(y, biases[2])
