"""The train step as one compiled program."""

import contextlib
import dataclasses
import functools as ft
import re
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import equinox as eqx
import jax

from ..._train import TrainStep
from ...types import Metrics, TrainState
from ...validation import ValidationError
from ..distributed import mesh
from ..io.samples import Samples
from . import allocator


Step = TrainStep | Callable[[TrainState], tuple[TrainState, Metrics]]
"""A `TrainStep`, or any function of a state that can be compiled."""

CompiledCall = Callable[[TrainState], tuple[TrainState, Metrics, Samples | None]]
"""state -> (next state, metrics, samples if they are logged)."""


class CompiledStep(NamedTuple):
    """A train step compiled to one program.

    **Fields:**

    - `call`: takes a step. It donates the state: the one that it was given must not be
        used again.
    - `seconds`: how long tracing and compiling took.
    - `bytes`: memory of the program on a device, according to the compiler, by kind:
        `arguments`, `results`, `reused` (results in the memory of arguments),
        `temporary`, and `peak`. Empty where the compiler does not say.
    """

    call: CompiledCall
    seconds: float
    bytes: dict[str, int]


@dataclasses.dataclass(frozen=True)
class LoweredStep:
    """A train step that has been traced, so that its arguments are known to fit.

    `program` compiles what was traced, a function of `step`, whose arrays are arguments
    of the program, and of the state. Tracing took so many `seconds`.
    """

    program: Callable[[], Callable]
    step: Step
    seconds: float

    def compile(self) -> CompiledStep:
        """Compiles the program."""
        start = time.perf_counter()
        program = self.program()
        allocator.give_back()
        seconds = self.seconds + time.perf_counter() - start
        return CompiledStep(ft.partial(program, self.step), seconds, _bytes(program))


def _bytes(program) -> dict[str, int]:
    memory = program.compiled.memory_analysis()
    if memory is None:
        return {}
    return {
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes,
        "reused": memory.alias_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "peak": memory.peak_memory_in_bytes,
    }


def lower(state: TrainState, step: Step, *, samples: int = 0) -> LoweredStep:
    """Traces a step for the shapes of a state; compiles nothing yet.

    The program also returns the completions of that many prompts, `samples`; those of a
    step that is no `TrainStep` are not known.

    **Raises:** what `train_step` raises for arguments that do not fit.
    """
    start = time.perf_counter()

    def call(step: Step, state: TrainState):
        if not isinstance(step, TrainStep):
            state, metrics = step(state)
            return state, mesh.replicate(metrics), None
        experience = step.collect(state)
        first = None
        if samples > 0:
            every = Samples.of(
                experience.trajectory, experience.rewards, experience.advantages
            )
            first = jax.tree.map(lambda x: x[:samples], every)
        state, metrics = step.learn(state, experience)
        return state, *mesh.replicate((metrics, first))

    program = eqx.filter_jit(call, donate="all-except-first")
    lowered = program.lower(step, state)  # pyright: ignore[reportFunctionMemberAccess]
    return LoweredStep(lowered.compile, step, time.perf_counter() - start)


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
