"""Phase 2, reward: Trajectory -> Rewards."""

import functools as ft
import inspect
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..types import Rewards, Trajectory


RewardFn = Callable[[Trajectory], Rewards]
"""What the train step asks for."""

Shaping = Callable[[Trajectory, Rewards], Rewards]
"""Changes rewards that are there already; `Chain` puts them in a row."""


class WeightedSum(eqx.Module):
    """total = Σ weight · component, over the components that apply to a row.

    The components are those that the environment pays and those of further reward
    functions: a host's judge, a penalty on length. A row to which no weighed component
    applies is not `valid`.

    **Fields:**

    - `weights`: a weight for each component's name. A component that is not named is
        recorded and weighs nothing. `None` gives each the weight 1.
    - `others`: further reward functions; their components are weighed by name, and
        their totals are not read.

    **Raises:** `ValueError` for a name that nobody pays, or that two pay.

    !!! example

        ```python
        reward = WeightedSum(
            {"correct": 1.0, "format": 0.2, "soft_overlong": 0.5},
            SoftOverlong(horizon=256, buffer=64),
        )
        ```
    """

    weights: dict[str, float | Float[Array, ""]] | None
    others: tuple[RewardFn, ...]

    def __init__(
        self,
        weights: dict[str, float | Float[Array, ""]] | None = None,
        *others: RewardFn,
    ):
        self.weights, self.others = weights, others

    def __call__(self, trajectory: Trajectory) -> Rewards:
        everyone = jnp.ones(trajectory.terminated.shape, bool)
        components, keep, errors = dict(trajectory.rewards), everyone, {}
        applies = dict.fromkeys(components, everyone)
        for other in self.others:
            more = checked(other, trajectory)
            _refuse_twice(components, more.components)
            for name, component in more.components.items():
                components[name] = component
                applies[name] = more.valid & ~jnp.isnan(component)
            keep, errors = keep & more.keep, {**errors, **more.errors}
        weights = self._weights(components)
        dtype = jnp.result_type(float)
        total = jnp.zeros(everyone.shape, dtype)
        for name, weight in weights.items():
            paid = weight * components[name].astype(dtype)
            total = total + jnp.where(applies[name], paid, 0)
        zero = jnp.zeros((), dtype)
        return Rewards(
            total=total,
            components=components,
            weights={name: weights.get(name, zero) for name in components},
            valid=_any([applies[name] for name in weights], everyone),
            keep=keep,
            lengths=trajectory.lengths,
            errors=errors,
        )

    def _weights(self, components: dict[str, Array]) -> dict[str, Float[Array, ""]]:
        named = self.weights
        if named is None:
            named = dict.fromkeys(components, 1.0)
        unknown = sorted(set(named) - set(components))
        if unknown:
            raise ValueError(
                "WeightedSum weighs components that somebody pays. Received "
                f"{unknown}; the environment and the other reward functions pay "
                f"{sorted(components)}."
            )
        dtype = jnp.result_type(float)
        return {
            name: jnp.asarray(named[name], dtype)
            for name in components
            if name in named
        }


def _refuse_twice(components: dict[str, Array], more: dict[str, Array]):
    twice = sorted(set(components) & set(more))
    if twice:
        raise ValueError(
            f"A component is paid by one reward function. Received {twice} from two: "
            "give one of them another `name`."
        )


def _any(
    masks: list[Bool[Array, "prompt group"]], none: Bool[Array, "prompt group"]
) -> Bool[Array, "prompt group"]:
    return ft.reduce(jnp.logical_or, masks) if masks else none


class Chain(eqx.Module):
    """A reward function followed by any number of shapings, first to last.

    **Raises:** `TypeError` for one that returns no `Rewards`.

    !!! example

        ```python
        reward = Chain(WeightedSum({"correct": 1.0}), drop_truncated)
        ```
    """

    first: RewardFn
    rest: tuple[Shaping, ...]

    def __init__(self, first: RewardFn, *rest: Shaping):
        self.first, self.rest = first, rest

    def __call__(self, trajectory: Trajectory) -> Rewards:
        rewards = checked(self.first, trajectory)
        for shaping in self.rest:
            rewards = checked(shaping, trajectory, rewards)
        return rewards


def checked(
    function: Callable[..., Rewards], *arguments: Trajectory | Rewards
) -> Rewards:
    """What a reward function or a shaping returns, which must be `Rewards`."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise TypeError(
            "A reward function is called with a trajectory, a shaping with a "
            f"trajectory and rewards. Received {function!r}, which does not take "
            f"{len(arguments)} ({error}): a shaping stands behind a reward function, "
            "as in `Chain(WeightedSum(), shaping)`."
        ) from None
    rewards = function(*arguments)
    if not isinstance(rewards, Rewards):
        raise TypeError(
            "A reward function or shaping returns `Rewards`. Received "
            f"{rewards!r} from {function!r}: `Rewards.of` makes them of an array, and "
            "`dataclasses.replace` of others."
        )
    return rewards
