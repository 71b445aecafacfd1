"""The train step as a compiled program, or as several with Python between them."""

import contextlib
import dataclasses
import functools as ft
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..._train import Experience, RolloutSource, TrainStep
from ...env import AbstractDatasetEnvironment, AbstractEnvironment
from ...host import AbstractHostEnvironment
from ...reward import split
from ...sharding import spmd
from ...types import Metrics, Prompt, TrainState
from ...validation import ValidationError
from ..distributed import mesh as meshes, processes
from ..io.samples import Samples
from .devices import allocator
from .devices.actors import Actors
from .devices.programs import cache_hits, Lowered, trace


Step = TrainStep | Callable[[TrainState], tuple[TrainState, Metrics]]
"""A `TrainStep`, or any function of a state that can be compiled."""

CompiledCall = Callable[[TrainState], tuple[TrainState, Metrics, Samples | None]]
"""state -> (next state, metrics, samples if they are logged)."""


class CompiledStep(NamedTuple):
    """A train step compiled to one program, or to two with Python between them.

    **Fields:**

    - `call`: takes a step. It donates the state: the one that it was given must not be
        used again.
    - `close`: ends the threads that it has started.
    - `seconds`: how long tracing and compiling took, or reading from JAX's persistent
        cache.
    - `cached`: whether all of the programs were read from that cache.
    - `bytes`: memory of each program on a device, according to the compiler, by kind:
        `arguments`, `results`, `reused` (results in the memory of arguments) and
        `temporary`. Empty where the compiler does not say.
    """

    call: CompiledCall
    close: Callable[[], None]
    seconds: float
    cached: bool
    bytes: dict[str, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class LoweredStep:
    """A train step that has been traced, so that its arguments are known to fit.

    `link` makes a step of `step` and the compiled programs. Tracing took so many
    `seconds`.
    `actors` are the other devices on which rollouts are sampled, if there are any.
    """

    programs: dict[str, Lowered]
    link: Callable[..., CompiledCall]
    step: Step
    seconds: float
    actors: Actors | None
    inputs: list[split.HostInputs] = dataclasses.field(default_factory=list)

    def dry_call(self) -> None:
        """Calls the step's host rewards and its host environment on one row.

        **Raises:** `ValueError` for a function that cannot be called.
        """
        step, inputs = self.step, self.inputs
        if not isinstance(step, TrainStep):
            return
        if isinstance(step.env, AbstractHostEnvironment):
            processes.on_process_0(step.env.dry_call)
        if not inputs:
            return
        key = jax.random.key(0)

        @eqx.filter_jit
        def prompt(env: AbstractEnvironment) -> Prompt:
            if isinstance(env, AbstractDatasetEnvironment):
                return meshes.replicate(env.problem(jnp.zeros((), jnp.int32))[1])
            return meshes.replicate(env.reset(key)[1])

        first = jax.device_get(prompt(step.env))
        processes.on_process_0(lambda: split.dry_call(step.reward, inputs, first))

    def of(self, step: Step) -> "LoweredStep":
        """The same programs for a step that differs in nothing but arrays."""
        return dataclasses.replace(self, step=step, seconds=0.0)

    def compile(self) -> CompiledStep:
        """Compiles the programs, if they have not been."""
        start = time.perf_counter()
        with cache_hits() as hits:
            compiled = {name: x.compile() for name, x in self.programs.items()}
        allocator.give_back()
        seconds = self.seconds + time.perf_counter() - start
        memory = {name: _bytes(x.compiled) for name, x in compiled.items()}
        call = self.link(self.step, *compiled.values())
        close = (lambda: None) if self.actors is None else self.actors.close
        return CompiledStep(call, close, seconds, len(hits) == len(compiled), memory)


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


def lower(
    state: TrainState, step: Step, *, samples: int = 0, steps: int = sys.maxsize
) -> LoweredStep:
    """Traces a step for the shapes of a state; compiles nothing yet.

    The step also returns the completions of that many prompts, `samples`; those of a
    step that is no `TrainStep` are not known. A reward that runs Python is called
    between two programs, since XLA's persistent cache keeps none that calls Python. The
    backend of an environment is called in place of the first one. Actors sample for no
    step after `steps`.

    **Raises:** what `train_step` raises for arguments that do not fit.
    """
    start, actors, inputs = time.perf_counter(), None, []
    if isinstance(step, TrainStep) and step.actors is not None:
        actors = Actors(step.actors, state, step, steps)
    outside = isinstance(step, TrainStep) and step.env.backend is not None
    if isinstance(step, TrainStep) and (
        actors or outside or split.host_rewards(step.reward)
    ):
        programs, link, inputs = _lower_two(state, step, samples, actors)
    else:
        programs, link = _lower_one(state, step, samples)
    seconds = time.perf_counter() - start
    return LoweredStep(programs, link, step, seconds, actors, inputs)


def _lower_one(state: TrainState, step: Step, samples: int):
    def call(step: Step, state: TrainState):
        if isinstance(step, TrainStep):
            return _learn(step, state, step.collect(state), samples)
        state, metrics = step(state)
        return state, meshes.replicate(metrics), None

    lowered = trace(call, step, state, donate=(1,))
    return {"step": lowered}, lambda step, program: ft.partial(program, step)


def _lower_two(state: TrainState, step: TrainStep, samples: int, actors: Actors | None):
    def sample(step: TrainStep, source: RolloutSource):
        made = spmd.constrain_batch(step.sample(source))
        return made, spmd.constrain_batch(split.host_inputs(step.reward, made[0]))

    def update(step: TrainStep, state: TrainState, made: PyTree, outputs: PyTree):
        reward = split.with_outputs(step.reward, made[0], outputs)
        experience = dataclasses.replace(step, reward=reward).collect(state, *made)
        return _learn(step, state, experience, samples)

    def sample_next(step: TrainStep, state: TrainState):
        return sample(step, RolloutSource.of(state, step.draws))

    programs = {}
    if step.env.backend is not None:  # It is called as it is.
        results = eqx.filter_eval_shape(sample_next, step, state)
    else:
        if actors is None:
            first = trace(sample_next, step, state)
        else:
            first = actors.trace(sample, state)
        programs["sample"], results = first, first.results
    made, inputs = shapes = spmd.shard_structs(results)
    outputs = split.output_structs(inputs)
    programs["update"] = trace(update, step, state, made, outputs, donate=(1,))

    def link(step: TrainStep, *compiled: Any) -> CompiledCall:
        def call_host(made: PyTree, inputs: list[split.HostInputs]):
            return made, split.call_host(step.reward, inputs)

        first: Any = sample_next if len(compiled) == 1 else compiled[0]
        (*_, second) = compiled
        rollout = lambda state: call_host(*first(step, state))
        if actors is not None:
            rollout = actors.start(first, shapes, call_host)
        return lambda state: second(step, state, *rollout(state))

    return programs, link, inputs


def _learn(step: TrainStep, state: TrainState, experience: Experience, samples: int):
    first = None
    if samples > 0:
        every = Samples.of(
            experience.trajectory, experience.rewards, experience.advantages
        )
        first = jax.tree.map(lambda x: x[:samples], every)
    state, metrics = step.learn(state, experience)
    return state, *meshes.replicate((metrics, first))


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
