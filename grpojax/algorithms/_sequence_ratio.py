"""Algorithms whose ratio, or its mean, is that of a whole row."""

from .. import advantage
from ..types import FloatLike
from ..update import (
    Clip,
    Gmpo,
    Objective,
    sequence_mean,
    sequence_ratio,
    sequence_sum,
    token_mean,
    token_ratio,
    Vespo,
)
from ._algorithm import Algorithm


def gspo(*, low: FloatLike = 3e-4, high: FloatLike = 4e-4) -> Algorithm:
    """Group Sequence Policy Optimization: one ratio for the whole row.

        s = exp(mean over the row's tokens of log ρ)
        loss = -mean over rows of min(s A, clip(s, 1 - low, 1 + high) A)

    **Arguments:**

    - `low`, `high`: the trust region of the ratio s.

    Source: GSPO, arXiv:2507.18071, equation 5. TRL's `importance_sampling_level=
    "sequence"`. verl's `gspo` is the paper's GSPO-token (`update.sequence_token_ratio`)
    with both bounds 0.2 by default, at which next to nothing is clipped.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(sequence_ratio, Clip(low, high), sequence_mean),
    )


def luspo(*, low: FloatLike = 2e-3, high: FloatLike = 2.5e-3) -> Algorithm:
    """Length-unbiased GSPO: each row is weighted by its length.

        s = exp(mean over the row's tokens of log ρ)
        loss = -mean over rows of length · min(s A, clip(s, 1 - low, 1 + high) A)

    **Arguments:**

    - `low`, `high`: the trust region of the ratio s.

    Source: LUSPO, arXiv:2602.05261. TRL's `loss_type="luspo"` at
    `importance_sampling_level="sequence"`; with its default, "token", it has ρ for s.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(sequence_ratio, Clip(low, high), sequence_sum),
    )


def gmpo(*, low: FloatLike = 0.4, high: FloatLike = 0.4) -> Algorithm:
    """Geometric-mean policy optimization: outlying tokens lose their weight.

        x = log ρ, clipped to [-low, high] on the side that A pushes to
        loss = -mean over rows of A · exp(mean over the row's tokens of x)

    **Arguments:**

    - `low`, `high`: the trust region of log ρ.

    Source: GMPO, arXiv:2507.20673, equation 4. verl's `geo_mean`.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(token_ratio, Gmpo(low, high), sequence_mean),
    )


def vespo() -> Algorithm:
    """Variational sequence-level soft policy optimization.

        w = Π over the row's tokens of ρ
        loss = -mean over tokens of sg(w^k · exp(λ (1 - w))) · A · log π
        (k, λ) = (2, 3) where A >= 0, else (3, 2)

    Source: VESPO, arXiv:2602.10693. TRL's, whose mean over tokens is the paper's sum
    over the row up to one factor for the whole batch.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(token_ratio, Vespo(), token_mean),
    )
