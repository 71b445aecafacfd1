"""The static settings of a forward pass, and what they decide for every layer."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, DTypeLike, Float

from ...types import Axes
from ..attention import ATTENTION_OUTPUT
from ..matrix import as_matrix, Matrix, save_products
from ._config import TransformerConfig
from ._weights import weight_axes


ATTENTION_PROJECTIONS = "attention_projections"
"""The checkpoint name of the results of attention's four projections."""

_policies = jax.checkpoint_policies

_SAVED: dict[str, Callable] = {
    "nothing": _policies.everything_saveable,
    # Elementwise operations are cheaper to recompute than to save.
    "elementwise": _policies.save_from_both_policies(
        save_products, _policies.save_only_these_names(ATTENTION_OUTPUT)
    ),
    # The MLP is wider than everything else, so most of what is saved is its.
    "mlp": _policies.save_only_these_names(ATTENTION_PROJECTIONS, ATTENTION_OUTPUT),
    "layers": _policies.nothing_saveable,
}


def check_remat(remat: str) -> None:
    """Checks the name of a rematerialization policy.

    **Raises:** `ValueError` for an unknown one.
    """
    if remat not in _SAVED:
        raise ValueError(
            "remat names what the backward pass rematerializes: "
            f"{', '.join(_SAVED)}. Received remat={remat!r}."
        )


def rematerialize(layer: Callable, remat: str, *, scanned: bool) -> Callable:
    """A layer under `jax.checkpoint` with a named policy.

    **Arguments:**

    - `layer`: the function of a layer.
    - `remat`: the name of the policy.
    - `scanned`: whether layers are scanned. In an unrolled program the compiler sees
        both passes of a layer, and must be kept from eliminating the second computation
        as a common subexpression.
    """
    return jax.checkpoint(layer, policy=_SAVED[remat], prevent_cse=not scanned)


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


def layer_axes(architecture: Architecture, name: str) -> Axes:
    """The logical axes of one layer's weight."""
    names, pieces = weight_axes(architecture.config, name)
    return Axes(names[1:], pieces[1:])


def layer_product(
    architecture: Architecture,
    x: Float[Array, "chunk inputs"],
    matrix: Matrix,
    name: str,
    result: DTypeLike | None = None,
) -> Float[Array, "chunk outputs"]:
    """A product with one layer's projection."""
    axes = layer_axes(architecture, name)
    return as_matrix(matrix).multiply(x, architecture.compute_dtype, axes, result)
