"""Phase 2, reward: Trajectory -> Rewards."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Rewards, Trajectory


RewardFn = Callable[[Trajectory], Rewards]
"""What the train step asks for."""

Shaping = Callable[[Trajectory, Rewards], Rewards]
"""Changes rewards that are there already; `chain` puts them in a row."""


class weighted_sum(eqx.Module):
    """total = Σ weight · component.

    **Fields:**

    - `weights`: a weight for each component's name. A component that is not named is
        recorded and weighs nothing. `None` gives each the weight 1.

    **Raises:** `ValueError` for a name that the environment does not pay.

    !!! example

        ```python
        reward = weighted_sum({"correct": 1.0, "format": 0.2})
        ```
    """

    weights: dict[str, float | Float[Array, ""]] | None = None

    def __call__(self, trajectory: Trajectory) -> Rewards:
        components = trajectory.rewards
        if self.weights is None:
            weights = dict.fromkeys(components, 1.0)
        else:
            weights = self.weights
        unknown = sorted(set(weights) - set(components))
        if unknown:
            raise ValueError(
                "weighted_sum weighs components that the environment pays. Received "
                f"{unknown}; the environment pays {sorted(components)}."
            )
        dtype = jnp.result_type(float)
        weighed = {n: jnp.asarray(weights.get(n, 0.0), dtype) for n in components}
        total = jnp.zeros(trajectory.terminated.shape, dtype)
        for name, component in components.items():
            total = total + weighed[name] * component.astype(dtype)
        rows = jnp.ones(trajectory.terminated.shape, bool)
        return Rewards(
            total=total,
            components=dict(components),
            weights=weighed,
            valid=rows,
            keep=rows,
            lengths=trajectory.lengths,
        )


class chain(eqx.Module):
    """A reward function followed by any number of shapings, first to last.

    !!! example

        ```python
        reward = chain(weighted_sum({"correct": 1.0}), drop_truncated)
        ```
    """

    first: RewardFn
    rest: tuple[Shaping, ...]

    def __init__(self, first: RewardFn, *rest: Shaping):
        self.first, self.rest = first, rest

    def __call__(self, trajectory: Trajectory) -> Rewards:
        rewards = self.first(trajectory)
        for shaping in self.rest:
            rewards = shaping(trajectory, rewards)
        return rewards
