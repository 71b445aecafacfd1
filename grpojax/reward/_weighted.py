"""Reward functions made of others: weighted sums, and chains of shapings."""

import dataclasses
import functools as ft
import inspect
from collections.abc import Callable, Mapping

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._checks import check_numbers, check_parts
from ..types import FloatLike, Rewards, Trajectory
from ._turns import turn_totals


RewardFn = Callable[[Trajectory], Rewards]
"""A reward function: the argument `reward` of the train step."""

Shaping = Callable[[Trajectory, Rewards], Rewards]
"""A function that changes rewards; `Chain` applies several in order."""


class WeightedSum(eqx.Module):
    """The weighted sum of the reward components that apply to a row.

        total = Σ weight · component

    The components are the environment's rewards and those of further reward functions:
    a judge on the host, a penalty on length. A row to which no weighted component
    applies is not `valid`.

    **Fields:**

    - `weights`: from component names to weights. A component without a weight is
        recorded and has weight 0. `None` gives each the weight 1. A component whose
        weight is the Python number 0 may be missing.
    - `others`: further reward functions; their components are weighted by name, and
        their totals are ignored.

    **Raises:** `TypeError` for a class in place of a reward function; `ValueError` for
    weights without a component and, when called, for the weight of an unknown
    component, or for two components of one name.

    !!! example

        ```python
        reward = WeightedSum(
            {"correct": 1.0, "format": 0.2, "soft_overlong": 0.5},
            SoftOverlong(horizon=256, buffer=64),
        )
        ```
    """

    weights: dict[str, FloatLike] | None
    others: tuple[RewardFn, ...]

    def __init__(
        self,
        weights: dict[str, FloatLike] | None = None,
        *others: RewardFn,
    ):
        self.weights, self.others = weights, others

    def __check_init__(self):
        check_parts("WeightedSum", others=self.others)
        if not isinstance(self.weights, Mapping | None):
            raise TypeError(
                "`WeightedSum.weights` maps components to numbers. Received "
                f'{self.weights!r:.80}: write `{{"correct": 1.0}}`.'
            )
        check_numbers("WeightedSum.weights", **(self.weights or {}))
        if self.weights is not None and not self.weights:
            raise ValueError(
                "`WeightedSum.weights` names at least one component. Received {}: "
                "leave it out to give each component the weight 1."
            )

    def __call__(self, trajectory: Trajectory) -> Rewards:
        all_rows = jnp.ones(trajectory.terminated.shape, bool)
        components, keep, errors = dict(trajectory.rewards), all_rows, {}
        applies = {name: ~jnp.isnan(x) for name, x in components.items()}
        for other in self.others:
            more = checked(other, trajectory)
            _check_distinct(components, more.components)
            for name, component in more.components.items():
                components[name] = component
                applies[name] = more.valid & ~jnp.isnan(component)
            keep, errors = keep & more.keep, {**errors, **more.errors}
        weights = self._weights(components)
        dtype = jnp.result_type(float)
        total = jnp.zeros(all_rows.shape, dtype)
        others = total
        for name, weight in weights.items():
            weighted = weight * components[name].astype(dtype)
            weighted = jnp.where(applies[name], weighted, 0)
            total = total + weighted
            if name not in trajectory.rewards:
                others = others + weighted
        zero = jnp.zeros((), dtype)
        return Rewards(
            total=total,
            components=components,
            weights={name: weights.get(name, zero) for name in components},
            valid=_any([applies[name] for name in weights], all_rows),
            keep=keep,
            lengths=trajectory.lengths,
            errors=errors,
            turns=turn_totals(trajectory, weights, total, others),
        )

    def _weights(self, components: dict[str, Array]) -> dict[str, Float[Array, ""]]:
        named = self.weights
        if named is None:
            named = dict.fromkeys(components, 1.0)
        unknown = sorted(
            name
            for name, weight in named.items()
            if name not in components and not _is_zero(weight)
        )
        if unknown:
            raise ValueError(
                "`WeightedSum.weights` names components of the environment and of the "
                f"other reward functions, {sorted(components)}. Received {unknown}: "
                "correct the names, or leave them out."
            )
        dtype = jnp.result_type(float)
        return {
            name: jnp.asarray(named[name], dtype)
            for name in components
            if name in named
        }


def _is_zero(weight: FloatLike) -> bool:
    return isinstance(weight, int | float) and weight == 0


def _check_distinct(components: dict[str, Array], more: dict[str, Array]):
    twice = sorted(set(components) & set(more))
    if twice:
        raise ValueError(
            f"A component belongs to one reward function. Received {twice} from two: "
            "give one of them another `name`."
        )


def _any(
    masks: list[Bool[Array, "prompt group"]], none: Bool[Array, "prompt group"]
) -> Bool[Array, "prompt group"]:
    return ft.reduce(jnp.logical_or, masks) if masks else none


class Chain(eqx.Module):
    """A reward function followed by any number of shapings, first to last.

    **Fields:**

    - `first`: the reward function.
    - `rest`: the shapings, in order.

    **Raises:** `TypeError` for a class in place of an instance and, when called, for a
    function that does not return `Rewards`.

    !!! example

        ```python
        reward = Chain(WeightedSum({"correct": 1.0}), drop_truncated)
        ```
    """

    first: RewardFn
    rest: tuple[Shaping, ...]

    def __init__(self, first: RewardFn, *rest: Shaping):
        self.first, self.rest = first, rest

    def __check_init__(self):
        check_parts("Chain", first=self.first, rest=self.rest)

    def __call__(self, trajectory: Trajectory) -> Rewards:
        rewards = checked(self.first, trajectory)
        for shaping in self.rest:
            rewards = checked(shaping, trajectory, rewards)
        return rewards


def checked(
    function: Callable[..., Rewards], *arguments: Trajectory | Rewards
) -> Rewards:
    """Calls a reward function or a shaping and checks that it returns `Rewards`.

    **Arguments:**

    - `function`: the reward function or shaping.
    - `arguments`: the trajectory, and for a shaping the rewards.

    **Returns:** the rewards.

    **Raises:** `TypeError` for a class in place of an instance, another number of
    arguments, or anything but `Rewards`.
    """
    check_parts("train_step", reward=function)
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise TypeError(
            "A reward function is called with a trajectory, a shaping with a "
            f"trajectory and rewards. Received {function!r}, which does not take "
            f"{len(arguments)} ({error}): a shaping follows a reward function, as in "
            "`Chain(WeightedSum(), shaping)`."
        ) from None
    rewards = function(*arguments)
    if not isinstance(rewards, Rewards):
        raise TypeError(
            "A reward function or shaping returns `Rewards`. Received "
            f"{rewards!r} from {function!r}: make them with `Rewards.of(array)`, or "
            "with `dataclasses.replace(rewards, ...)`."
        )
    return _without_dropped(arguments[0], rewards)


def _without_dropped(trajectory: object, rewards: Rewards) -> Rewards:
    """Rewards that do not apply to the rows that the rollout has dropped."""
    if not isinstance(trajectory, Trajectory) or trajectory.dropped is None:
        return rewards
    kept, errors = ~trajectory.dropped, dict(rewards.errors)
    if "errors" in trajectory.counts:
        errors["environment"] = trajectory.counts["errors"] > 0
    return dataclasses.replace(
        rewards,
        total=jnp.where(kept, rewards.total, 0),
        valid=rewards.valid & kept,
        errors=errors,
    )
