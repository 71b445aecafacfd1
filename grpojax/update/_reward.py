"""The KL penalty in the reward: what a reference policy says of a row, as a component.

It lives here, and not with the rewards, because it scores tokens.
"""

import equinox as eqx
import jax.numpy as jnp

from .. import masked
from ..policy import AbstractPolicy
from ..types import Rewards, Trajectory
from ._penalty import Estimator, k1
from ._score import check_parts
from ._streams import score_in_parts
from ._surrogate import Number


class KLReward(eqx.Module):
    """A reward function that pays a row's divergence from a reference policy.

        kl = Σ_t log π(y[t]) - log π_ref(y[t])

    Weighed negatively, it takes part in the baseline as any other component does. That
    is verl's `use_kl_in_reward`, and what TRL's RLOO trainer does with its `beta`.

    **Fields:**

    - `reference`: the frozen policy.
    - `estimator`: `k1`, `k2`, `k3` ...; in a reward, only k1 descends the KL itself.
    - `temperature`: the one that the tokens were sampled at.
    - `parts`: how many parts the batch is scored in, for memory.

    !!! example

        ```python
        reward = WeightedSum({"correct": 1.0, "kl": -0.01}, KLReward(reference))
        ```
    """

    reference: AbstractPolicy
    estimator: Estimator = k1
    temperature: Number = 1.0
    parts: int = eqx.field(static=True, default=1)

    def __call__(self, trajectory: Trajectory) -> Rewards:
        """Rewards of one component, `kl`."""
        check_parts("parts", self.parts, *trajectory.terminated.shape)
        reference, _ = score_in_parts(
            self.reference,
            trajectory.prompt,
            trajectory.tokens,
            trajectory.sampled,
            self.parts,
            temperature=self.temperature,
        )
        estimate = self.estimator(trajectory.log_prob, reference)
        total = jnp.sum(masked.fill(estimate, trajectory.sampled), axis=-1)
        return Rewards.of(total, name="kl", lengths=trajectory.lengths)
