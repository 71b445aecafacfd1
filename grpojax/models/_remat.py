"""What of a layer the backward pass computes again, by name."""

from collections.abc import Callable

import jax

from ._product import save_products


ATTENTION = "attention"
"""The name of what the products of the attention return, for `jax.checkpoint`."""

_KEPT: dict[str, Callable] = {
    "nothing": jax.checkpoint_policies.everything_saveable,
    # What lies between the products is cheaper to compute again than to keep.
    "elementwise": save_products,
    # Where the MLP is much wider than the rest, most of what is kept is its.
    "mlp": jax.checkpoint_policies.save_only_these_names(ATTENTION),
    "layers": jax.checkpoint_policies.nothing_saveable,
}


def check_remat(remat: str) -> None:
    """Refuses a name that there is not."""
    if remat not in _KEPT:
        raise ValueError(
            f"remat names what the backward pass computes again: {', '.join(_KEPT)}. "
            f"Received remat={remat!r}."
        )


def recompute(block: Callable, remat: str) -> Callable:
    """A layer that keeps for its backward pass what `remat` leaves."""
    return jax.checkpoint(block, policy=_KEPT[remat], prevent_cse=False)
