"""A reward function whose Python functions are called between two programs.

    trajectory, inputs = jit(rollout, inputs of the host rewards)
    outputs = Python(inputs)
    ... = jit(reward of trajectory and outputs, advantage, update)

XLA's persistent cache keeps no program that calls Python. All else of a reward, weights
and shapings, is computed in the second program, as it is where there is only one.
"""

import functools as ft

import equinox as eqx
import jax

from ..sharding import spmd
from ..types import Rewards, Trajectory
from ._host import HostInputs as HostInputs, HostOutputs as HostOutputs, HostReward
from ._weighted import RewardFn


def host_rewards(reward: RewardFn | None) -> list[HostReward]:
    """The host rewards in a reward function: leaves of its pytree.

    One that a function encloses is not among them, and stays a callback.
    """
    return [x for x in jax.tree.leaves(reward, is_leaf=_is_host) if _is_host(x)]


def host_inputs(reward: RewardFn | None, trajectory: Trajectory) -> list[HostInputs]:
    """The inputs of each host reward, in the program of the rollout."""
    return [x.inputs(trajectory) for x in host_rewards(reward)]


def call_host(reward: RewardFn | None, inputs: list[HostInputs]) -> list[HostOutputs]:
    """Calls each host reward, outside of any program."""

    def call(host: HostReward, batch: HostInputs) -> HostOutputs:
        shapes = HostOutputs.shapes(batch.sampled.shape[:-1])
        compute = ft.partial(host.compute, dtype=shapes.reward.dtype)
        return spmd.call_shards(compute, batch, shapes)

    return [call(*x) for x in zip(host_rewards(reward), inputs, strict=True)]


def output_structs(inputs: list[HostInputs]) -> list[HostOutputs]:
    """The shapes of what `call_host` returns, given those of the inputs."""
    shapes = [HostOutputs.shapes(x.sampled.shape[:-1]) for x in inputs]
    return spmd.call_structs(shapes)


def with_outputs(
    reward: RewardFn, trajectory: Trajectory, outputs: list[HostOutputs]
) -> RewardFn:
    """The reward function with the outputs of its host rewards, in the next program."""
    known = iter([spmd.read_called(x) for x in outputs])

    def bind(x):
        return _Computed(x, trajectory, next(known)) if _is_host(x) else x

    return jax.tree.map(bind, reward, is_leaf=_is_host)


def _is_host(x: object) -> bool:
    return isinstance(x, HostReward)


class _Computed(eqx.Module):
    """A host reward that has been called for a trajectory."""

    host: HostReward
    trajectory: Trajectory
    outputs: HostOutputs

    def __call__(self, trajectory: Trajectory) -> Rewards:
        pairs = zip(
            jax.tree.leaves(trajectory), jax.tree.leaves(self.trajectory), strict=True
        )
        if all(x is y for x, y in pairs):
            return self.host.rewards(trajectory, self.outputs)
        # A reward function of the user's has changed what it passes on.
        return self.host(trajectory)
