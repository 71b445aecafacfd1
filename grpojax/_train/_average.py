"""An exponential moving average of the weights that are trained."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from .._checks import check_counts
from ..policy import AbstractPolicy
from ..types import accumulation_dtype, FloatLike, TrainState


class Averaging(eqx.Module):
    """An exponential moving average of the weights, every so many steps.

        average <- decay · average + (1 - decay) · weights,  if step mod every = 0

    It is kept in float32 at least: in bfloat16 a decay of 0.99 would round most changes
    away. Of adapters it is the adapters' average, over their frozen base.

    **Fields:**

    - `decay`: 0 takes the weights themselves.
    - `every`: steps between two refreshes.
    - `reference`: whether the average is the reference policy of a KL penalty.

    With `reference` and `every = n` this is TRL's `sync_ref_model`, whose
    `ref_model_mixup_alpha` is 1 - decay and `ref_model_sync_steps` is n; with `decay =
    0` the reference is replaced by the policy every n steps (ProRL, arXiv:2505.24864).

    **Raises:** `ValueError` for a decay outside of [0, 1), or a count that is not
    positive.

    !!! example

        ```python
        step = TrainStep(env, optimizer, rollout=rollout, average=Averaging(0.99))
        ```
    """

    decay: FloatLike = 0.99
    every: int = eqx.field(static=True, default=1)
    reference: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_counts("Averaging", 1, every=self.every)
        if isinstance(self.decay, int | float) and not 0 <= self.decay < 1:
            raise ValueError(
                "`Averaging.decay` is at least 0 and below 1. Received "
                f"{self.decay}: 0.99 averages over about a hundred refreshes."
            )

    def init(self, policy: AbstractPolicy) -> PyTree:
        """The average at the start: a copy of the weights that are trained."""
        wide = lambda x: jnp.array(x, accumulation_dtype(x.dtype), copy=True)
        return jax.tree.map(wide, eqx.filter(policy, policy.trainable()))

    def update(
        self, average: PyTree, policy: AbstractPolicy, step: Int[Array, ""]
    ) -> PyTree:
        """The average after a step.

        **Arguments:**

        - `average`: before it.
        - `policy`: after it.
        - `step`: its number, from 1.
        """
        refreshes = step % self.every == 0
        keep = jnp.where(refreshes, jnp.asarray(self.decay, jnp.float32), 1.0)

        def mean(old, new):
            weight = keep.astype(old.dtype)
            moved = weight * old + (1 - weight) * new.astype(old.dtype)
            return jnp.where(refreshes, moved, old)

        return jax.tree.map(mean, average, eqx.filter(policy, policy.trainable()))


def averaged(state: TrainState) -> AbstractPolicy:
    """The policy of a state with the average of its weights.

    **Arguments:**

    - `state`: of a step with `average`.

    **Raises:** `ValueError` for a state without an average.

    !!! example

        ```python
        result = Evaluation(env).run(averaged(state))
        ```
    """
    if state.average is None:
        raise ValueError(
            "The average of the weights is a part of the train state. Received a state "
            "without one: give the step `average=Averaging(0.99)` (`average.decay` in "
            "a recipe), and make the state by its `init`."
        )
    narrow = lambda x, y: x.astype(y.dtype)
    own = eqx.filter(state.policy, state.policy.trainable())
    return eqx.combine(jax.tree.map(narrow, state.average, own), state.policy)
