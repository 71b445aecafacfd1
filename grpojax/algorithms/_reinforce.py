"""Algorithms of the REINFORCE family: they differ in the baseline."""

from .. import advantage
from ..types import FloatLike
from ..update import (
    Clip,
    Objective,
    Reinforce,
    sequence_sum,
    token_mean,
    token_ratio,
)
from ._algorithm import Algorithm


def rloo() -> Algorithm:
    """REINFORCE with the mean of the other members of the group as the baseline.

        A = r - mean of the others
        loss = -mean over rows of A · Σ_t log π

    Source: RLOO, arXiv:2402.14740, equation 8. As in the paper there is no ratio and no
    clip: take one update for each rollout. verl and Tunix have this advantage under
    PPO's clip, TRL's trainer under a clip of the row's ratio, with the KL in the reward
    (`update.KLReward`).
    """
    return Algorithm(
        advantage.leave_one_out,
        advantage.keep_all,
        Objective(token_ratio, Reinforce(), sequence_sum),
    )


def reinforce() -> Algorithm:
    """The policy gradient, with the mean of the batch as the baseline.

        A = (r - mean_batch) / (std_batch + 1e-4)
        loss = -mean over tokens of A · log π

    Source: Williams, "Simple statistical gradient-following algorithms" (1992). No
    ratio: take one update for each rollout. MLLM-JAX has this advantage under PPO's
    clip, with the statistics of one process's share of the batch.
    """
    return Algorithm(
        advantage.BatchNormalized(),
        advantage.keep_all,
        Objective(token_ratio, Reinforce(), token_mean),
    )


def reinforce_plus_plus(
    *, low: FloatLike = 0.2, high: FloatLike = 0.2, group_baseline: bool = False
) -> Algorithm:
    """REINFORCE++: rewards whitened over all tokens of the batch, under PPO's clip.

        A = (x - mean_tokens) / √(var_tokens + 1e-8)
        loss = -mean over tokens of min(ρ A, clip(ρ, 1 - low, 1 + high) A)

    **Arguments:**

    - `low`, `high`: the trust region of the ratio ρ.
    - `group_baseline`: x is the reward minus its group's mean, not the reward itself.

    Source: REINFORCE++, arXiv:2501.03262. verl's two estimators at gamma = 1. The KL,
    of each token in the paper, is a component of the row's reward: `update.KLReward`.
    """
    return Algorithm(
        advantage.ReinforcePlusPlus(group_baseline),
        advantage.keep_all,
        Objective(token_ratio, Clip(low, high), token_mean),
    )


def opo() -> Algorithm:
    """On-policy optimization with the baseline of least variance.

        A = r - Σ n r / Σ n over the group, n the length of a row
        loss = -mean over rows of A · Σ_t log π

    Source: OPO, arXiv:2505.23585. Strictly on-policy, so there is no ratio: take one
    update for each rollout. verl has this advantage under PPO's clip.
    """
    return Algorithm(
        advantage.opo,
        advantage.keep_all,
        Objective(token_ratio, Reinforce(), sequence_sum),
    )
