"""The KL penalty as a reward.

It belongs to the update and not to the rewards, because it computes log-probs.
"""

import equinox as eqx
import jax.numpy as jnp

from .. import masked
from ..policy import AbstractPolicy
from ..types import Rewards, Trajectory
from ._config import check_count, UpdateConfig
from .loss import k1
from .loss._penalty import Estimator
from .packed import masked_log_probs


class KLReward(eqx.Module):
    """A reward: each row's KL divergence from a reference policy.

        kl = Σ_t log π(y[t]) - log π_ref(y[t])

    both at the temperature that the tokens were sampled at. Weighted negatively, it
    takes part in the baseline as any other component does. That is verl's
    `use_kl_in_reward`, and what TRL's RLOO trainer does with its `beta`.

    **Fields:**

    - `reference`: the frozen policy.
    - `estimator`: `k1`, `k2`, `k3` ...; in a reward, only k1 has the gradient of the
        KL itself.
    - `tokens`: the most tokens that are scored at a time, as in `UpdateConfig`.
    - `name`: of the component.

    **Raises:** `ValueError` if that is not a positive integer.

    !!! example

        ```python
        reward = WeightedSum({"correct": 1.0, "kl": -0.01}, KLReward(reference))
        ```
    """

    reference: AbstractPolicy
    estimator: Estimator = k1
    tokens: int | None = eqx.field(static=True, default=None)
    name: str = eqx.field(static=True, kw_only=True, default="kl")

    def __check_init__(self):
        if self.tokens is not None:
            check_count("tokens", self.tokens)

    def __call__(self, trajectory: Trajectory) -> Rewards:
        """Rewards of one component, in nats."""
        reference, _ = masked_log_probs(
            self.reference,
            trajectory.prompt,
            trajectory.tokens,
            trajectory.sampled,
            UpdateConfig(tokens=self.tokens).microbatch_tokens(trajectory.tokens.size),
            temperature=trajectory.temperature,
            vocab_size=trajectory.vocab_size,
        )
        estimate = self.estimator(trajectory.log_prob, reference)
        total = jnp.sum(masked.fill(estimate, trajectory.sampled), axis=-1)
        return Rewards.of(total, name=self.name, lengths=trajectory.lengths)
