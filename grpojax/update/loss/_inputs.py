"""Inputs of the loss, token by token.

Every array has the shape `[*rows time]` or, where it holds one number for a row,
`[*rows 1]`. Log-probabilities are natural, entropies in nats.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ... import masked


PerToken = Float[Array, "*rows time"]
"""A number for every token."""


class Batch(eqx.Module):
    """Constants of the loss: advantages, the mask and fixed log-probabilities.

    **Fields:**

    - `advantage`: of each row, or of each token.
    - `mask`: the tokens that are trained on.
    - `old`: log-probs under the policy that the ratio is taken against (the proximal
        policy). `None` stands for the current policy: the ratio is 1, with a gradient.
    - `behavior`: log-probs recorded by the sampler.
    - `reference`: log-probs under the reference policy, or `None`.
    - `entropy`: of the old policy, or `None` where no part of the objective needs it.
    - `teacher`: log-probs under the teacher of a distillation, or `None`.
    """

    advantage: Float[Array, "*rows #time"]
    mask: Bool[Array, "*rows time"]
    old: PerToken | None = None
    behavior: PerToken | None = None
    reference: PerToken | None = None
    entropy: PerToken | None = None
    teacher: PerToken | None = None


class LossWeights(eqx.Module):
    """Per-token loss weights, computed over the full batch.

    **Fields:**

    - `token`: weight of each token's surrogate.
    - `bonus`: weight of each token's entropy in the entropy bonus, if there is one.
    - `entropy_mask`: tokens that the entropy filter keeps, if there is one.
    - `importance`: importance weight of each token or row; computed by
        `Objective.importance` where it is `None`.
    - `balance`: weight of each token in the mean of a load balance, if there is one.
    """

    token: PerToken
    bonus: PerToken | None = None
    entropy_mask: Bool[Array, "*rows time"] | None = None
    importance: Float[Array, "*rows #time"] | None = None
    balance: PerToken | None = None


class LossInputs(eqx.Module):
    """The current policy's log-probs and entropies, beside the batch and its weights.

    **Fields:**

    - `log_prob`, `entropy`: under the policy that is differentiated.
    - `batch`: constants.
    - `weights`: from `Objective.loss_weights`, of the full batch.
    - `balance`: of the experts that each token has, if a penalty asks for it.
    """

    log_prob: PerToken
    entropy: PerToken
    batch: Batch
    weights: LossWeights
    balance: PerToken | None = None

    @property
    def mask(self) -> Bool[Array, "*rows time"]:
        return self.batch.mask

    @property
    def advantage(self) -> PerToken:
        """Advantages, one for each token, 0 outside the mask."""
        advantage = jnp.broadcast_to(self.batch.advantage, self.log_prob.shape)
        return masked.fill(advantage, self.mask)

    @property
    def old(self) -> PerToken:
        """Old log-probs; by default the current ones, without a gradient."""
        if self.batch.old is None:
            return jax.lax.stop_gradient(self.log_prob)
        return self.batch.old

    @property
    def log_ratio(self) -> PerToken:
        """log π(token) - log π_old(token), 0 outside the mask."""
        return masked.fill(self.log_prob - self.old, self.mask)
