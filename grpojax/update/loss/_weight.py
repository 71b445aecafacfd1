"""Aggregation as a weight: mask -> weight of each token, over the full batch.

`loss = -Σ weight · surrogate`. Since weights are computed over the full batch, the
losses of its microbatches sum to its loss.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ... import masked


Mask = Bool[Array, "*rows time"]
Weight = Float[Array, "*rows time"]


def _share(mask: Mask, divisor) -> Weight:
    return mask.astype(jnp.result_type(float)) / divisor


def _rows(mask: Mask) -> int:
    return mask.size // mask.shape[-1]


def token_mean(mask: Mask) -> Weight:
    """1 / N for each of the batch's N tokens: long rows count for more (DAPO, BNPO)."""
    return _share(mask, masked.count(mask))


def sequence_mean(mask: Mask) -> Weight:
    """1 / (B nᵢ): the mean over all B rows of each row's token mean (GRPO, TRL).

    A row without tokens counts in B.
    """
    return _share(mask, masked.count(mask, axis=-1) * _rows(mask))


def nonempty_sequence_mean(mask: Mask) -> Weight:
    """1 / (B' nᵢ), where B' counts the rows that have tokens (verl, Tunix)."""
    rows = masked.count(jnp.any(mask, axis=-1))
    return _share(mask, masked.count(mask, axis=-1) * rows)


def sequence_sum(mask: Mask) -> Weight:
    """1 / B: the mean over all B rows of each row's token sum (LUSPO)."""
    return _share(mask, _rows(mask))


def prompt_mean(
    mask: Bool[Array, "prompt group time"],
) -> Float[Array, "prompt group time"]:
    """1 / (P Nₚ): a token mean inside each prompt's group, then a mean over prompts."""
    return _share(mask, masked.count(mask, axis=(-2, -1)) * mask.shape[0])


class Constant(eqx.Module):
    """1 / (B · length): a constant divisor (Dr. GRPO).

    **Fields:**

    - `length`: tokens; the width of the mask, which is the environment's horizon, when
        `None`.

    **Raises:** `ValueError` for a length below 1.

    Source: arXiv:2503.20783, with TRL's division by the number of rows.
    """

    length: int | None = None

    def __check_init__(self):
        if self.length is not None and self.length < 1:
            raise ValueError(
                f"Constant(length=...) divides the loss and must be at least 1. "
                f"Received length={self.length}."
            )

    def __call__(self, mask: Mask) -> Weight:
        length = mask.shape[-1] if self.length is None else self.length
        return _share(mask, length * _rows(mask))


class Total(eqx.Module):
    """1 / divisor for every token.

    **Fields:**

    - `divisor`: such as the number of tokens of a larger batch.
    """

    divisor: float | Float[Array, ""]

    def __call__(self, mask: Mask) -> Weight:
        return _share(mask, self.divisor)
