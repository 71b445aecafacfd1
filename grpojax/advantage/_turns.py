"""Estimators of several turns: an advantage for every token, that of its turn."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._checks import check_parts
from ..types import FloatLike, Rewards, TurnTotals
from ._estimators import GroupNormalized
from ._statistics import Advantages, check_group, normalized, TokenAdvantages


class ByTurn(eqx.Module):
    """The advantage of each turn's return, by any estimator of rows.

        G[t] = Σ discount^(s - t) · r[s],   s = t, t + 1, ...
        A[t] = estimator(G[t]) over the conversations that have a turn t

    where `r[s]` is what turn `s` was paid, and a token has the advantage of its turn.
    With the default estimator G[t] is normalized over the group, turn by turn. A
    discount of 0 gives credit for a turn's own reward, and one of 1 for all that
    follows it. Of a single turn it is the estimator's advantage, to the last bit.

    **Fields:**

    - `estimator`: Rewards -> Advantages.
    - `discount`: of later rewards, between 0 and 1.

    **Raises:** `TypeError` for a class in place of an estimator.

    !!! example

        ```python
        advantage.ByTurn(advantage.leave_one_out, discount=0.9)
        ```

    Source: MT-GRPO, arXiv:2505.11821, which normalizes the rewards of a turn over the
    group; returns in place of rewards are those of policy gradients.
    """

    estimator: Callable[[Rewards], Advantages] = GroupNormalized()
    discount: FloatLike = 1.0

    def __check_init__(self):
        check_parts("ByTurn", estimator=self.estimator)

    def __call__(self, rewards: Rewards) -> TokenAdvantages:
        turns = rewards.turns
        if turns is None:
            return self.estimator(rewards)
        returns = _discounted(_paid(rewards, turns), self.discount)

        def advantage(total: Array, taken: Array) -> Advantages:
            valid = rewards.valid & taken
            only = Rewards.of(total, valid=valid, lengths=rewards.lengths)
            return self.estimator(only)

        each = jax.vmap(advantage, in_axes=-1, out_axes=-1)(returns, turns.taken)
        return _of_tokens(each, turns)


class TurnNormalized(eqx.Module):
    """Sums of normalized rewards of turns: GRPO with process supervision.

        z[s] = (r[s] - mean) / (std + eps)   over all turns of the group
        A[t] = Σ discount^(s - t) · z[s],   s = t, t + 1, ...

    where `r[s]` is what turn `s` was paid, and a token has the advantage of its turn.
    Every turn is compared with all others, also of other numbers. Of a single turn it
    is that of `GroupNormalized`.

    **Fields:**

    - `discount`: of later rewards, between 0 and 1; 1 in the paper.
    - `eps`, `ddof`: as in `GroupNormalized`.

    **Raises:** `ValueError` for a group of one.

    Source: GRPO, arXiv:2402.03300, section 4.1.3.
    """

    discount: FloatLike = 1.0
    eps: FloatLike = 1e-4
    ddof: int = eqx.field(static=True, default=1)

    def __call__(self, rewards: Rewards) -> TokenAdvantages:
        turns = rewards.turns
        if turns is None:
            return GroupNormalized(self.eps, self.ddof)(rewards)
        check_group(rewards, "TurnNormalized")
        paid = _paid(rewards, turns)
        valid = turns.taken & rewards.valid[..., None]
        prompts = paid.shape[0]
        z = normalized(
            paid.reshape(prompts, -1),
            valid.reshape(prompts, -1),
            1,
            eps=self.eps,
            ddof=self.ddof,
        )
        return _of_tokens(_discounted(z.reshape(paid.shape), self.discount), turns)


def _paid(rewards: Rewards, turns: TurnTotals) -> Float[Array, "prompt group turn"]:
    """The reward of each turn; what shapings have changed belongs to the last one."""
    return turns.with_last(rewards.total - turns.sum)


def _discounted(
    paid: Float[Array, "prompt group turn"], discount: FloatLike
) -> Float[Array, "prompt group turn"]:
    """The discounted sum of each turn's reward and of those after it."""
    number = jnp.arange(paid.shape[-1])
    later = jnp.maximum(number - number[:, None], 0)
    factors = jnp.asarray(discount, paid.dtype) ** later.astype(paid.dtype)
    factors = jnp.where(number >= number[:, None], factors, 0)
    return jnp.sum(factors * paid[..., None, :], axis=-1)


def _of_tokens(
    each: Float[Array, "prompt group turn"], turns: TurnTotals
) -> Float[Array, "prompt group time"]:
    return jnp.take_along_axis(each, turns.turn_of_token, axis=-1)
