"""A reward function whose Python functions are called between two programs.

    trajectory, inputs = jit(rollout, inputs of the host rewards)
    outputs = Python(inputs)
    ... = jit(reward of trajectory and outputs, advantage, update)

XLA's persistent cache keeps no program that calls Python. All else of a reward, weights
and shapings, is computed in the second program, as it is where there is only one.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ..sharding import spmd
from ..types import Prompt, Rewards, Trajectory
from ._weighted import RewardFn
from .host import HostInputs as HostInputs, HostOutputs as HostOutputs, HostReward


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
    hosts = host_rewards(reward)
    shapes = [HostOutputs.shapes(x.sampled.shape[:-1]) for x in inputs]

    def call(inputs: list[HostInputs]) -> list[HostOutputs]:
        pairs = list(zip(hosts, inputs, strict=True))
        compute = lambda pair: pair[0].compute(pair[1], shapes[0].reward.dtype)
        # Those that wait do so together; the others have the interpreter in turn.
        together = len(pairs) > 1
        with ThreadPoolExecutor(max(len(pairs), 1)) as pool:
            waiting = [
                pool.submit(compute, x) if together and x[0].waits else None
                for x in pairs
            ]
            both = zip(pairs, waiting, strict=True)
            return [compute(x) if y is None else y.result() for x, y in both]

    return spmd.call_shards(call, inputs, shapes) if hosts else []


def dry_call(reward: RewardFn | None, inputs: list[HostInputs], prompt: Prompt) -> None:
    """Calls each host reward on one row, whose completion repeats its prompt.

    **Arguments:**

    - `inputs`: the shapes of what `host_inputs` returns.
    - `prompt`: of problem 0, if problems have numbers.

    **Raises:** `ValueError` for a function that cannot be called, or whose answer is
    not one of numbers.
    """
    tokens = np.asarray(prompt.tokens)[None]
    length = np.asarray(prompt.length)
    for host, shapes in zip(host_rewards(reward), inputs, strict=True):
        time = min(shapes.tokens.shape[-1], int(length))
        zeros = lambda x: np.zeros((1,) * (x.ndim - 1) + (1,), x.dtype)
        host.dry_call(
            HostInputs(
                tokens,
                length[None],
                tokens[:, None, :time],
                np.ones((1, 1, time), bool),
                jax.tree.map(zeros, shapes.columns),
                None if shapes.problems is None else np.zeros(1, np.int32),
                shapes.rows,
            )
        )


def output_structs(inputs: list[HostInputs]) -> list[HostOutputs]:
    """The shapes of what `call_host` returns, given those of the inputs."""
    shapes = [HostOutputs.shapes(x.sampled.shape[:-1]) for x in inputs]
    return spmd.call_structs(shapes)


def with_outputs(
    reward: RewardFn | None, trajectory: Trajectory, outputs: list[HostOutputs]
) -> Any:
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
