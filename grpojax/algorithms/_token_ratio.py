"""Algorithms whose ratio is that of each token: GRPO and its relatives."""

from .. import advantage
from ..types import FloatLike
from ..update import (
    Cispo,
    Clip,
    Constant,
    KL,
    Objective,
    Sapo,
    sequence_mean,
    token_mean,
    token_ratio,
)
from ._algorithm import Algorithm


def grpo(
    *, low: FloatLike = 0.2, high: FloatLike = 0.2, beta: FloatLike | None = None
) -> Algorithm:
    """Group Relative Policy Optimization.

        A = (r - mean_group) / (std_group + 1e-4)
        loss = -mean over rows of mean over tokens of
               [min(ρ A, clip(ρ, 1 - low, 1 + high) A) - β k3]

    **Arguments:**

    - `low`, `high`: the trust region of the ratio ρ.
    - `beta`: coefficient of the KL penalty to the reference policy; none when `None`.

    **Raises:** `ValueError` for a negative hyperparameter.

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
    """GRPO done right: no division by the group's std or by the row's length.

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
    """GRPO with the mean over all tokens of the batch.

        loss = -mean over tokens of min(ρ A, clip(ρ, 1 - low, 1 + high) A)

    **Arguments:**

    - `low`, `high`: the trust region of the ratio ρ.

    Source: TRL's `loss_type="bnpo"` with one microbatch; here the mean is that of the
    batch for any number of microbatches. Beta Normalization Policy Optimization,
    arXiv:2506.02864, is another algorithm of the same name.
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

    **Arguments:**

    - `low`, `high`: the trust region of the ratio ρ.

    Source: DAPO, arXiv:2503.14476. The paper and verl sample until a batch is full of
    such groups; TRL does not select. Here the batch keeps its shape, and the other
    groups are masked out of the loss and its divisor.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.nonzero_variance,
        Objective(token_ratio, Clip(low, high), token_mean),
    )


def cispo(*, cap: FloatLike = 5.0, floor: FloatLike = 0.0) -> Algorithm:
    """Clipped importance sampling: every token keeps its gradient.

        loss = -mean over tokens of sg(clip(ρ, floor, cap)) · A · log π

    **Arguments:**

    - `cap`, `floor`: the largest and the smallest weight of a token.

    Source: MiniMax-M1, arXiv:2506.13585, equation 4. The cap is TRL's absolute one;
    open-instruct's is `cap=1 + high`, and verl has `floor=1 - low` as well. EasyDeL's
    has no stop-gradient.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(token_ratio, Cispo(cap, floor), token_mean),
    )


def sapo(*, positive: FloatLike = 1.0, negative: FloatLike = 1.05) -> Algorithm:
    """Soft Adaptive Policy Optimization: a soft gate instead of a clip.

        loss = -mean over rows of mean over tokens of A (4 / τ) sigmoid(τ (ρ - 1))
        τ = positive where A > 0, else negative

    **Arguments:**

    - `positive`, `negative`: the temperature τ of the gate.

    Source: SAPO, arXiv:2511.20347. Equals TRL's, and verl's except for rows without
    tokens.
    """
    return Algorithm(
        advantage.GroupNormalized(),
        advantage.keep_all,
        Objective(token_ratio, Sapo(positive, negative), sequence_mean),
    )
