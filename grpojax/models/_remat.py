"""What of a layer the backward pass computes again, by name."""

from collections.abc import Callable

import jax

from ._product import save_products


ATTENTION = "attention"
"""The name of what the products of the attention return, for `jax.checkpoint`."""

MIXED = "mixed"
"""The name of what attention mixes, and of what its gradient needs beside that."""

_policies = jax.checkpoint_policies

_KEPT: dict[str, Callable] = {
    "nothing": _policies.everything_saveable,
    # What lies between the products is cheaper to compute again than to keep.
    "elementwise": _policies.save_from_both_policies(
        save_products, _policies.save_only_these_names(MIXED)
    ),
    # Where the MLP is much wider than the rest, most of what is kept is its.
    "mlp": _policies.save_only_these_names(ATTENTION, MIXED),
    "layers": _policies.nothing_saveable,
}


def check_remat(remat: str) -> None:
    """Refuses a name that there is not."""
    if remat not in _KEPT:
        raise ValueError(
            f"remat names what the backward pass computes again: {', '.join(_KEPT)}. "
            f"Received remat={remat!r}."
        )


def recompute(block: Callable, remat: str, *, scanned: bool) -> Callable:
    """A layer that keeps for its backward pass what `remat` leaves.

    Where layers are not `scanned`, both passes of one are in sight of the compiler,
    which has to be kept from computing things once for the two, and keeping them.
    """
    return jax.checkpoint(block, policy=_KEPT[remat], prevent_cse=not scanned)
