"""The experts of a layer, applied to the tokens that chose them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike, Float, Int

from ...sharding import spmd
from ...types import Axes
from ..matrix import as_matrix, Matrix
from ._grouped import grouped_product, Groups
from ._router import Routing
from ._rows import map_rows


class ExpertMatrices(NamedTuple):
    """The matrices of all experts of a layer, on a leading axis of experts."""

    gate: Matrix
    up: Matrix
    down: Matrix


class ExpertAxes(NamedTuple):
    """The logical axes of `ExpertMatrices`."""

    gate: Axes
    up: Axes
    down: Axes


class ExpertBiases(NamedTuple):
    """The biases of all experts of a layer, on a leading axis of experts.

    **Fields:**

    - `gate`, `up`, `down`: of the products with `ExpertMatrices`.
    - `axes`: the logical axes of the first two.
    """

    gate: Float[Array, "expert width"]
    up: Float[Array, "expert width"]
    down: Float[Array, "expert hidden"]
    axes: Axes


def apply_experts(
    x: Float[Array, "token hidden"],
    routing: Routing,
    matrices: ExpertMatrices,
    axes: ExpertAxes,
    gated: Callable[[Array, Array], Array],
    dtype: DTypeLike,
    biases: ExpertBiases | None = None,
) -> Float[Array, "token hidden"]:
    """Σ weight · expert(x) over the experts of each token, in float32.

        expert(x) = gated(x gate, x up) down

    Every token has all of its experts, whatever the others chose: no expert has a
    capacity. The cost is that of the chosen experts.

    **Arguments:**

    - `x`: normed hidden states.
    - `routing`: the experts of each token.
    - `matrices`, `axes`: of all experts, and their logical axes: on a mesh each device
        computes with the experts that it has.
    - `gated`: hidden units of the products with gate and up; hashable.
    - `dtype`: of the operands of the products.
    - `biases`: added to all three products, if there are any.
    """
    own = None if biases is None else (biases.gate, biases.up)
    bias_axes = None if biases is None else biases.axes
    function = _Experts(axes, bias_axes, gated, jnp.dtype(dtype).name)
    y = map_rows(function, x, routing.weight, routing.expert, shared=(matrices, own))
    if biases is None:
        return y
    # Outside of the experts, where devices with parts of their widths would each add
    # it: a product with the weights of all experts, of which most are zero.
    chosen = jax.nn.one_hot(routing.expert, biases.down.shape[0])
    weight = jnp.sum(routing.weight[..., None] * chosen, axis=-2)
    down = biases.down.astype(jnp.float32)
    return y + jnp.matmul(weight, down, precision=jax.lax.Precision.HIGHEST)


_HiddenBiases = tuple[Array, Array] | None
"""Those of gate and up."""


class _Experts(NamedTuple):
    """`apply_experts` of plain rows."""

    axes: ExpertAxes
    bias_axes: Axes | None
    gated: Callable[[Array, Array], Array]
    dtype: str

    def __call__(
        self,
        x: Array,
        weight: Array,
        expert: Array,
        shared: tuple[ExpertMatrices, _HiddenBiases],
    ) -> Array:
        matrices, biases = shared
        known = [as_matrix(as_matrix(one).cast(self.dtype)) for one in matrices]
        leaves, tree = jax.tree.flatten(ExpertMatrices(*known))
        each = zip(known, self.axes, strict=True)
        axes = [matrix.logical_axes(own) for matrix, own in each]
        axes = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, Axes))

        def local(x, weight, expert, weights, first):
            leaves, biases = weights
            return self.local(x, weight, expert, tree.unflatten(leaves), biases, first)

        rows = x, weight, expert
        of_biases = None if biases is None else (self.bias_axes,) * 2
        return spmd.shard_map_experts(local, rows, (leaves, biases), (axes, of_biases))

    def local(
        self,
        x: Float[Array, "token hidden"],
        weight: Float[Array, "token choice"],
        expert: Int[Array, "token choice"],
        matrices: ExpertMatrices,
        biases: _HiddenBiases,
        first: Int[ArrayLike, ""],
    ) -> Float[Array, "token hidden"]:
        """The sum over those experts that there are, numbered from `first`."""
        tokens, choices = expert.shape
        count = as_matrix(matrices.gate).shape[0]
        chosen = expert.reshape(-1) - first
        # Rows of experts that are elsewhere come last.
        chosen = jnp.where((chosen >= 0) & (chosen < count), chosen, count)
        order = jnp.argsort(chosen)
        groups = Groups.of(chosen[order], count)

        def sort(values: Array) -> Array:
            return values.at[order].get(unique_indices=True, mode="promise_in_bounds")

        wide = jnp.broadcast_to(x[:, None], (tokens, choices, x.shape[1]))
        rows = sort(wide.reshape(-1, x.shape[1]).astype(self.dtype))
        gate = grouped_product(rows, matrices.gate, groups, self.dtype)
        up = grouped_product(rows, matrices.up, groups, self.dtype)
        if biases is not None:
            gate, up = (
                y + bias.astype(jnp.float32).at[groups.expert].get(mode="clip")
                for y, bias in zip((gate, up), biases, strict=True)
            )
        # Weighted before the last product, whose result the backward pass then does
        # not need: the gradient of a weight is a product of hidden units.
        hidden = self.gated(gate, up) * sort(weight.reshape(-1))[:, None]
        y = grouped_product(hidden, matrices.down, groups, self.dtype)
        back = y.at[jnp.argsort(order)].get(
            unique_indices=True, mode="promise_in_bounds"
        )
        return jnp.sum(back.reshape(tokens, choices, -1), axis=1)
