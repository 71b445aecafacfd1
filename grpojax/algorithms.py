"""Algorithms are values: each is one expression over small parts.

No critic, no replay: the only baselines are the group and the batch. Where the ratio
ρ = π / π_old is exactly 1, as in the first update, all of them have the gradient of
Σ weight · A · log π; they differ in A, in the weight, and in what becomes of ρ later.
"""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Bool, Float

from . import advantage
from .types import FloatLike, Rewards
from .update import (
    Cispo,
    Clip,
    Constant,
    Gmpo,
    KL,
    Objective,
    Reinforce,
    Sapo,
    sequence_mean,
    sequence_ratio,
    sequence_sum,
    token_mean,
    token_ratio,
    Vespo,
)


class Algorithm(eqx.Module):
    """How rewards become a gradient.

    **Fields:**

    - `advantage`: Rewards -> Advantages.
    - `select`: Rewards -> which rows are trained on.
    - `objective`: the loss.

    Numbers are leaves: written as arrays they can be swept by `vmap`, and
    `eqx.tree_at` edits them.
    """

    advantage: Callable[[Rewards], Float[Array, "prompt group *time"]]
    select: Callable[[Rewards], Bool[Array, "prompt group"]]
    objective: Objective


def grpo(
    *, low: FloatLike = 0.2, high: FloatLike = 0.2, beta: FloatLike | None = None
) -> Algorithm:
    """Group Relative Policy Optimization.

        A = (r - mean_group) / (std_group + 1e-4)
        loss = -mean over rows of mean over tokens of
               [min(ρ A, clip(ρ, 1 - low, 1 + high) A) - β k3]

    **Arguments:**

    - `low`, `high`: the trust region of the ratio ρ.
    - `beta`: of the KL penalty to the reference policy; none when `None`.

    Source: DeepSeekMath, arXiv:2402.03300, equations 3 and 4. Equals TRL's
    `loss_type="grpo"`; its default is `"dapo"`, which weighs all tokens alike. verl and
    Tunix leave rows without tokens out of the mean.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(
            token_ratio,
            Clip(low, high),
            sequence_mean,
            penalties=() if beta is None else (KL(beta),),
        ),
    )


def dr_grpo(
    *, low: FloatLike = 0.2, high: FloatLike = 0.2, length: int | None = None
) -> Algorithm:
    """GRPO done right: no division by the group's spread or by the row's length.

        A = r - mean_group
        loss = -Σ min(ρ A, clip(ρ, 1 - low, 1 + high) A) / (rows · length)

    **Arguments:**

    - `low`, `high`: the trust region of the ratio ρ.
    - `length`: the constant divisor, tokens; the environment's horizon when `None`.

    Source: Dr. GRPO, arXiv:2503.20783. The division by the number of rows is TRL's;
    verl's `seq-mean-token-sum-norm` leaves it out.
    """
    return Algorithm(
        advantage.group_centered,
        advantage.keep_all,
        Objective(token_ratio, Clip(low, high), Constant(length)),
    )


def bnpo(*, low: FloatLike = 0.2, high: FloatLike = 0.2) -> Algorithm:
    """GRPO with the mean over all of the batch's tokens.

        loss = -mean over tokens of min(ρ A, clip(ρ, 1 - low, 1 + high) A)

    Source: TRL's `loss_type="bnpo"`, of one microbatch; here the mean is the batch's,
    whatever the microbatches. Beta Normalization Policy Optimization, arXiv:2506.02864,
    shares the letters only.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(token_ratio, Clip(low, high), token_mean),
    )


def dapo(*, low: FloatLike = 0.2, high: FloatLike = 0.28) -> Algorithm:
    """Decoupled clip and dynamic sampling.

        loss = -mean over the tokens of groups whose rewards differ of
               min(ρ A, clip(ρ, 1 - low, 1 + high) A)

    The fourth idea of the paper is a reward: `reward.SoftOverlong`.

    Source: DAPO, arXiv:2503.14476. The paper and verl sample anew until a batch is full
    of such groups, TRL does not select: here the batch keeps its shape, and the other
    groups leave the loss and its divisor.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.nonzero_variance,
        Objective(token_ratio, Clip(low, high), token_mean),
    )


def gspo(*, low: FloatLike = 3e-4, high: FloatLike = 4e-4) -> Algorithm:
    """Group Sequence Policy Optimization: one ratio for the whole row.

        s = exp(mean over the row's tokens of log ρ)
        loss = -mean over rows of min(s A, clip(s, 1 - low, 1 + high) A)

    Source: GSPO, arXiv:2507.18071, equation 5. TRL's `importance_sampling_level=
    "sequence"`. verl's `gspo` is the paper's GSPO-token (`update.sequence_token_ratio`)
    with 0.2 for both bounds unless told, at which next to nothing is clipped.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(sequence_ratio, Clip(low, high), sequence_mean),
    )


def cispo(*, cap: FloatLike = 5.0, floor: FloatLike = 0.0) -> Algorithm:
    """Clipped importance sampling: every token keeps its gradient.

        loss = -mean over tokens of sg(clip(ρ, floor, cap)) · A · log π

    Source: MiniMax-M1, arXiv:2506.13585, equation 4. The cap is TRL's absolute one;
    open-instruct says `cap=1 + high`, verl `floor=1 - low` as well. EasyDeL's has no
    stop-gradient.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(token_ratio, Cispo(cap, floor), token_mean),
    )


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
    """The policy gradient, with the batch as the baseline.

        A = (r - mean_batch) / (std_batch + 1e-4)
        loss = -mean over tokens of A · log π

    Source: Williams, "Simple statistical gradient-following algorithms" (1992). No
    ratio: take one update for each rollout. MLLM-JAX has this advantage under PPO's
    clip, and takes the statistics of one process's share of the batch.
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
    - `group_baseline`: x is the reward less its group's mean, not the reward itself.

    Source: REINFORCE++, arXiv:2501.03262. verl's two estimators at gamma = 1. The KL,
    at each token in the paper, is a component of the whole row: `update.KLReward`.
    """
    return Algorithm(
        advantage.ReinforcePlusPlus(group_baseline),
        advantage.keep_all,
        Objective(token_ratio, Clip(low, high), token_mean),
    )


def sapo(*, positive: FloatLike = 1.0, negative: FloatLike = 1.05) -> Algorithm:
    """Soft Adaptive Policy Optimization: a gate that never shuts instead of a clip.

        loss = -mean over rows of mean over tokens of A (4 / τ) sigmoid(τ (ρ - 1))
        τ = positive where A > 0, else negative

    Source: SAPO, arXiv:2511.20347. TRL's, and verl's but for rows without tokens.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(token_ratio, Sapo(positive, negative), sequence_mean),
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


def luspo(*, low: FloatLike = 2e-3, high: FloatLike = 2.5e-3) -> Algorithm:
    """Length-unbiased GSPO: each row counts by its length.

        s = exp(mean over the row's tokens of log ρ)
        loss = -mean over rows of length · min(s A, clip(s, 1 - low, 1 + high) A)

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

    Source: GMPO, arXiv:2507.20673, equation 4. verl's `geo_mean`.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(token_ratio, Gmpo(low, high), sequence_mean),
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
