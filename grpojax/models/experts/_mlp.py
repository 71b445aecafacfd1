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


def apply_experts(
    x: Float[Array, "token hidden"],
    routing: Routing,
    matrices: ExpertMatrices,
    axes: ExpertAxes,
    activation: Callable[[Array], Array],
    dtype: DTypeLike,
) -> Float[Array, "token hidden"]:
    """Σ weight · expert(x) over the experts of each token, in float32.

        expert(x) = (activation(x gate) ⊙ x up) down

    Every token has all of its experts, whatever the others chose: no expert has a
    capacity. The cost is that of the chosen experts.

    **Arguments:**

    - `x`: normed hidden states.
    - `routing`: the experts of each token.
    - `matrices`, `axes`: of all experts, and their logical axes: on a mesh each device
        computes with the experts that it has.
    - `activation`: of the gate.
    - `dtype`: of the operands of the products.
    """
    function = _Experts(axes, activation, jnp.dtype(dtype).name)
    return map_rows(function, x, routing.weight, routing.expert, shared=matrices)


class _Experts(NamedTuple):
    """`apply_experts` of plain rows."""

    axes: ExpertAxes
    activation: Callable[[Array], Array]
    dtype: str

    def __call__(
        self, x: Array, weight: Array, expert: Array, matrices: ExpertMatrices
    ) -> Array:
        known = [as_matrix(as_matrix(one).cast(self.dtype)) for one in matrices]
        leaves, tree = jax.tree.flatten(ExpertMatrices(*known))
        each = zip(known, self.axes, strict=True)
        axes = [matrix.logical_axes(own) for matrix, own in each]
        axes = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, Axes))

        def local(x, weight, expert, leaves, first):
            return self.local(x, weight, expert, tree.unflatten(leaves), first)

        rows = x, weight, expert
        return spmd.shard_map_experts(local, rows, leaves, axes)

    def local(
        self,
        x: Float[Array, "token hidden"],
        weight: Float[Array, "token choice"],
        expert: Int[Array, "token choice"],
        matrices: ExpertMatrices,
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
        # Weighted before the last product, whose result the backward pass then does
        # not need: the gradient of a weight is a product of hidden units.
        hidden = self.activation(gate) * up * sort(weight.reshape(-1))[:, None]
        y = grouped_product(hidden, matrices.down, groups, self.dtype)
        back = y.at[jnp.argsort(order)].get(
            unique_indices=True, mode="promise_in_bounds"
        )
        return jnp.sum(back.reshape(tokens, choices, -1), axis=1)
