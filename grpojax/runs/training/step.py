"""The train step as a compiled program, or as two with Python between them."""

import contextlib
import dataclasses
import functools as ft
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._train import Experience, TrainStep
from ...env import AbstractDatasetEnvironment, AbstractEnvironment
from ...reward import split
from ...sharding import spmd
from ...types import Metrics, Prompt, TrainState, Trajectory
from ...validation import ValidationError
from ..distributed import mesh, processes
from ..io.samples import Samples
from . import allocator
from .programs import cache_hits, Lowered, trace


Step = TrainStep | Callable[[TrainState], tuple[TrainState, Metrics]]
"""A `TrainStep`, or any function of a state that can be compiled."""

CompiledCall = Callable[[TrainState], tuple[TrainState, Metrics, Samples | None]]
"""state -> (next state, metrics, samples if they are logged)."""


class CompiledStep(NamedTuple):
    """A train step compiled to one program, or to two with Python between them.

    **Fields:**

    - `call`: takes a step. It donates the state: the one that it was given must not be
        used again.
    - `seconds`: how long tracing and compiling took, or reading from JAX's persistent
        cache.
    - `cached`: whether all of the programs were read from that cache.
    - `bytes`: memory of each program on a device, according to the compiler, by kind:
        `arguments`, `results`, `reused` (results in the memory of arguments) and
        `temporary`. Empty where the compiler does not say.
    """

    call: CompiledCall
    seconds: float
    cached: bool
    bytes: dict[str, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class LoweredStep:
    """A train step that has been traced, so that its arguments are known to fit.

    `link` makes a step of the compiled programs. Tracing took so many `seconds`.
    """

    programs: dict[str, Lowered]
    link: Callable[..., CompiledCall]
    step: Step
    seconds: float

    def dry_call(self) -> None:
        """Calls the step's host rewards on one row.

        **Raises:** `ValueError` for a function that cannot be called.
        """
        step = self.step
        if "sample" not in self.programs or not isinstance(step, TrainStep):
            return
        _, inputs = self.programs["sample"].results
        key = jax.random.key(0)

        @eqx.filter_jit
        def prompt(env: AbstractEnvironment) -> Prompt:
            if isinstance(env, AbstractDatasetEnvironment):
                return mesh.replicate(env.problem(jnp.zeros((), jnp.int32))[1])
            return mesh.replicate(env.reset(key)[1])

        first = jax.device_get(prompt(step.env))
        processes.on_process_0(lambda: split.dry_call(step.reward, inputs, first))

    def compile(self) -> CompiledStep:
        """Compiles the programs."""
        start = time.perf_counter()
        with cache_hits() as hits:
            compiled = {name: x.compile() for name, x in self.programs.items()}
        allocator.give_back()
        seconds = self.seconds + time.perf_counter() - start
        memory = {name: _bytes(x.compiled) for name, x in compiled.items()}
        call = self.link(*compiled.values())
        return CompiledStep(call, seconds, len(hits) == len(compiled), memory)


def _bytes(compiled: jax.stages.Compiled) -> dict[str, int]:
    memory = compiled.memory_analysis()
    if memory is None:
        return {}
    return {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes,
        "reused": memory.alias_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
    }


def lower(state: TrainState, step: Step, *, samples: int = 0) -> LoweredStep:
    """Traces a step for the shapes of a state; compiles nothing yet.

    The step also returns the completions of that many prompts, `samples`; those of a
    step that is no `TrainStep` are not known. A reward that runs Python is called
    between two programs, since XLA's persistent cache keeps none that calls Python.

    **Raises:** what `train_step` raises for arguments that do not fit.
    """
    start = time.perf_counter()
    if isinstance(step, TrainStep) and split.host_rewards(step.reward):
        programs, link = _lower_two(state, step, samples)
    else:
        programs, link = _lower_one(state, step, samples)
    return LoweredStep(programs, link, step, time.perf_counter() - start)


def _lower_one(state: TrainState, step: Step, samples: int):
    def call(step: Step, state: TrainState):
        if isinstance(step, TrainStep):
            return _learn(step, state, step.collect(state), samples)
        state, metrics = step(state)
        return state, mesh.replicate(metrics), None

    lowered = trace(call, step, state, donate=(1,))
    return {"step": lowered}, lambda program: ft.partial(program, step)


def _lower_two(state: TrainState, step: TrainStep, samples: int):
    def sample(step: TrainStep, state: TrainState):
        trajectory = spmd.constrain_batch(step.generate(state))
        inputs = split.host_inputs(step.reward, trajectory)
        return trajectory, spmd.constrain_batch(inputs)

    def update(step: TrainStep, state: TrainState, trajectory: Trajectory, outputs):
        reward = split.with_outputs(step.reward, trajectory, outputs)
        experience = dataclasses.replace(step, reward=reward).collect(state, trajectory)
        return _learn(step, state, experience, samples)

    first = trace(sample, step, state)
    trajectory, inputs = spmd.shard_structs(first.results)
    outputs = split.output_structs(inputs)
    second = trace(update, step, state, trajectory, outputs, donate=(1,))

    def link(first, second) -> CompiledCall:
        def call(state: TrainState):
            trajectory, inputs = first(step, state)
            return second(step, state, trajectory, split.call_host(step.reward, inputs))

        return call

    return {"sample": first, "update": second}, link


def _learn(step: TrainStep, state: TrainState, experience: Experience, samples: int):
    first = None
    if samples > 0:
        every = Samples.of(
            experience.trajectory, experience.rewards, experience.advantages
        )
        first = jax.tree.map(lambda x: x[:samples], every)
    state, metrics = step.learn(state, experience)
    return state, *mesh.replicate((metrics, first))


@contextlib.contextmanager
def validation_errors() -> Iterator[None]:
    """A context that raises the errors of `validate` in a program as they are.

    The runtime wraps them in the traceback of a callback.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"_EquinoxRuntimeError: ([^\n]+)", str(error))
        if found is None:
            raise
        raise ValidationError(found[1]) from error
