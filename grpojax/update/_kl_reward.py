"""The KL penalty as a reward.

It belongs to the update and not to the rewards, because it computes log-probs.
"""

import equinox as eqx
import jax.numpy as jnp

from .. import masked
from ..policy import AbstractPolicy
from ..types import Rewards, Trajectory
from ._batches import check_microbatches
from ._microbatches import masked_log_probs
from .loss import k1
from .loss._penalty import Estimator


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
    - `microbatches`: how many the batch is scored in, for memory.

    **Raises:** `ValueError` if the microbatches do not divide the batch.

    !!! example

        ```python
        reward = WeightedSum({"correct": 1.0, "kl": -0.01}, KLReward(reference))
        ```
    """

    reference: AbstractPolicy
    estimator: Estimator = k1
    microbatches: int = eqx.field(static=True, default=1)

    def __call__(self, trajectory: Trajectory) -> Rewards:
        """Rewards of one component, `kl`, in nats."""
        check_microbatches(
            "microbatches of KLReward", self.microbatches, *trajectory.terminated.shape
        )
        reference, _ = masked_log_probs(
            self.reference,
            trajectory.prompt,
            trajectory.tokens,
            trajectory.sampled,
            self.microbatches,
            temperature=trajectory.temperature,
        )
        estimate = self.estimator(trajectory.log_prob, reference)
        total = jnp.sum(masked.fill(estimate, trajectory.sampled), axis=-1)
        return Rewards.of(total, name="kl", lengths=trajectory.lengths)
