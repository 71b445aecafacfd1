"""Algorithms are values: each is one expression over small parts.

No critic, no replay: the only baselines are the group and the batch.
"""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, Bool, Float

from . import advantage, update
from .types import Rewards


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
    objective: update.Objective


def grpo(
    *,
    low: update.Number = 0.2,
    high: update.Number = 0.2,
    beta: update.Number | None = None,
) -> Algorithm:
    """Group Relative Policy Optimization.

        A = (r - mean_group) / (std_group + 1e-4)
        loss = -mean over rows of mean over tokens of
               [min(ρ A, clip(ρ, 1 - low, 1 + high) A) - β k3]

    **Arguments:**

    - `low`, `high`: the trust region of the ratio ρ.
    - `beta`: of the KL penalty to the reference policy; none when `None`.

    Source: DeepSeekMath, arXiv:2402.03300, equations 3 and 4. Differs from TRL's
    default (`loss_type="dapo"`), which is `token_mean`; equals its `loss_type="grpo"`.
    """
    return Algorithm(
        advantage.group_normalized(),
        advantage.everything,
        update.Objective(
            surrogate=update.Clip(low, high),
            weight=update.sequence_mean,
            penalties=() if beta is None else (update.KL(beta),),
        ),
    )


def dr_grpo(
    *,
    low: update.Number = 0.2,
    high: update.Number = 0.2,
    length: int | None = None,
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
        advantage.everything,
        update.Objective(
            surrogate=update.Clip(low, high), weight=update.Constant(length)
        ),
    )
