"""Rollouts on devices of their own, while the policy learns on others."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import PyTree

from ...._train import RolloutSource, TrainStep
from ....asynchronous import Ledger, RolloutQueue
from ....types import TrainState
from ...distributed import mesh as meshes, processes
from .programs import Lowered, Program, trace


class Actors:
    """The devices that sample a step's rollouts, with the arrays that they keep there.

    **Arguments:**

    - `mesh`: `step.actors`.
    - `state`: of the run's start, on the devices that learn.
    - `step`: samples the rollouts.
    - `steps`: total number of steps; no rollout is sampled for later ones.
    """

    def __init__(self, mesh: Mesh, state: TrainState, step: TrainStep, steps: int):
        _check(mesh, state, step)
        self._mesh = mesh if mesh.size > 1 else None
        self._device = mesh.devices.flat[0]
        self._staleness, self._steps = int(step.rollout.versions_behind), steps
        self._learner = meshes.mesh_of(state)
        self._default = SingleDeviceSharding(next(iter(state.version.devices())))
        # On the devices that learn, which have the curriculum's memory.
        self._next_source = eqx.filter_jit(RolloutSource.of)
        self._draws = step.draws
        self._step = self._put(step)
        self._frozen = self._put(eqx.partition(state.policy, _trainable(state))[1])
        self._next = int(state.version)
        self._queue: RolloutQueue | None = None

    def trace(self, function: Callable[..., PyTree], state: TrainState) -> Lowered:
        """`function(step, source)`, traced for the actors."""
        source = self._source(state, 0)
        with self._ambient():
            return trace(function, self._step, source)

    def start(
        self, program: Program, shapes: PyTree, finish: Callable[..., PyTree]
    ) -> Callable[[TrainState], Any]:
        """A function `state -> finish(rollout of the next step)`, called step by step.

        It submits the rollouts of up to `staleness` further steps before it waits.

        **Arguments:**

        - `program`: compiled from `trace`.
        - `shapes`: of its results, on the devices that learn.
        - `finish`: called with the results there, in the thread of the rollout.
        """
        version = self._next
        # A rollout takes all of the actors' devices: one at a time.
        ledger = Ledger(1, 1, self._staleness).resume(version)
        self._queue = queue = RolloutQueue(ledger, version)

        def sample(source: RolloutSource):
            with self._ambient():
                results = program(self._step, source)
            with meshes.use(self._learner):
                results = meshes.move(results, shapes, self._default)
                return jax.block_until_ready(finish(*results))

        def rollout(state: TrainState) -> Any:
            nonlocal version
            queue.set_version(version)
            while self._next <= min(version + self._staleness, self._steps - 1):
                source = self._source(state, self._next - version)
                queue.submit(lambda source=source: sample(source))
                self._next += 1
            version += 1
            return queue.wait(1)[0]

        return rollout

    def close(self) -> None:
        """Waits for the rollout that is sampled; no other begins."""
        if self._queue is not None:
            self._queue.close()

    def _source(self, state: TrainState, ahead: int) -> RolloutSource:
        """On the actors; of the policy only the trainable arrays are sent."""
        source = self._next_source(state, self._draws, ahead)
        params = eqx.filter(source.policy, _trainable(state))
        sent = self._put(dataclasses.replace(source, policy=params))
        policy = eqx.combine(sent.policy, self._frozen)
        return dataclasses.replace(sent, policy=policy)

    def _put(self, tree: Any) -> Any:
        if self._mesh is not None:
            return meshes.place(tree, self._mesh)
        arrays, static = eqx.partition(tree, eqx.is_array)
        return eqx.combine(jax.device_put(arrays, self._device), static)

    def _ambient(self) -> contextlib.AbstractContextManager:
        return jax.set_mesh(self._mesh) if self._mesh else contextlib.nullcontext()


def _trainable(state: TrainState) -> PyTree:
    return state.policy.trainable()


def _check(mesh: Mesh, state: TrainState, step: TrainStep) -> None:
    """Raises a `ValueError` unless the actors' devices are other ones, of this process.

    Rollouts that wait for the update before them could not run beside it.
    """
    if processes.is_multihost():
        raise ValueError(
            "Actors and learner exchange rollouts within one process. Received actors "
            f"in a run of {jax.process_count()}: leave out `actors`."
        )
    if not isinstance(step.rollout.versions_behind, int):
        raise ValueError(
            "Actors sample for a known number of steps ahead. Received "
            f"rollout.staleness={step.rollout.staleness}: pass an `int`."
        )
    arrays = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    learner = set().union(*(x.devices() for x in arrays))
    both = learner & set(mesh.devices.flat)
    if both:
        names = ", ".join(sorted(map(str, both)))
        raise ValueError(
            "Actors sample on devices of their own. Received "
            f"{names}, on which the state is: give `actors` other devices."
        )
