"""What the loss sees of a batch, token by token."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .. import masked


class Frozen(eqx.Module):
    """What is fixed for a whole batch before its gradient is taken.

    Every field has the shape `[*rows time]` or, where it is one number for a row,
    `[*rows 1]`.

    **Fields:**

    - `advantage`: how much better than its baseline the row did.
    - `mask`: the tokens that are trained on.
    - `old`: log-probabilities of the policy that the ratio is taken against (the
        proximal policy). `None` stands for the current one: the ratio is 1, and has a
        gradient.
    - `behavior`: log-probabilities recorded by the sampler.
    - `reference`: log-probabilities under the reference policy, or `None`.
    - `entropy`: of the old policy, nats, or `None` where no part asks for it.
    - `weight`: of each token in the loss, see `Objective.prepare`.
    - `bonus_weight`: of each token in the entropy bonus.
    - `importance`: the weight of a token or row whose sampler was not the old policy;
        where it is `None`, `Objective.importance` computes it.
    - `kept`: which tokens of the mask the entropy filter keeps.
    """

    advantage: Float[Array, "*rows #time"]
    mask: Bool[Array, "*rows time"]
    old: Float[Array, "*rows time"] | None = None
    behavior: Float[Array, "*rows time"] | None = None
    reference: Float[Array, "*rows time"] | None = None
    entropy: Float[Array, "*rows time"] | None = None
    weight: Float[Array, "*rows time"] | None = None
    bonus_weight: Float[Array, "*rows time"] | None = None
    importance: Float[Array, "*rows #time"] | None = None
    kept: Bool[Array, "*rows time"] | None = None


class Scores(eqx.Module):
    """The current policy's log-probabilities and entropies beside what is frozen."""

    log_prob: Float[Array, "*rows time"]
    entropy: Float[Array, "*rows time"]
    frozen: Frozen

    @property
    def mask(self) -> Bool[Array, "*rows time"]:
        return self.frozen.mask

    @property
    def advantage(self) -> Float[Array, "*rows time"]:
        """Advantages, one for each token, 0 outside the mask."""
        advantage = jnp.broadcast_to(self.frozen.advantage, self.log_prob.shape)
        return masked.fill(advantage, self.mask)

    @property
    def old(self) -> Float[Array, "*rows time"]:
        """Old log-probabilities; if there are none, the current ones, held fixed."""
        if self.frozen.old is None:
            return jax.lax.stop_gradient(self.log_prob)
        return self.frozen.old

    @property
    def log_ratio(self) -> Float[Array, "*rows time"]:
        """log π(token) - log π_old(token), 0 outside the mask."""
        return masked.fill(self.log_prob - self.old, self.mask)
