"""The train step, compiled once and called step by step."""

import dataclasses
import functools as ft
import time
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax

from .._train import train_step
from ..types import Metrics, TrainState


class CompiledStep(NamedTuple):
    """A train step as one program.

    **Fields:**

    - `call`: the next state and the metrics of a state, whose memory is reused: that
        state must not be touched again.
    - `seconds`: how long it took to trace and compile.
    """

    call: Callable[[TrainState], tuple[TrainState, Metrics]]
    seconds: float


@dataclasses.dataclass(frozen=True)
class LoweredStep:
    """A train step that has been traced, so that its arguments are known to fit.

    **Fields:**

    - `program`: compiles what was traced, a function of `fixed` and the state.
    - `fixed`: the keyword arguments of `train_step`.
    - `seconds`: how long tracing took.
    """

    program: Callable[[], Callable[..., tuple[TrainState, Metrics]]]
    fixed: dict
    seconds: float

    def compile(self) -> CompiledStep:
        """Compiles it."""
        start = time.perf_counter()
        compiled = self.program()
        seconds = self.seconds + time.perf_counter() - start
        return CompiledStep(ft.partial(compiled, self.fixed), seconds)


def _step(fixed: dict, state: TrainState) -> tuple[TrainState, Metrics]:
    return train_step(state, **fixed)


def lower(state: TrainState, **fixed) -> LoweredStep:
    """Traces `train_step` for a state, and compiles nothing yet.

    The arrays of the environment, of the algorithm and of the reward are arguments of
    the program and no constants in it.

    **Arguments:**

    - `state`: from `grpojax.init`; only its shapes matter.
    - `fixed`: the keyword arguments of `train_step`.

    **Raises:** what `train_step` raises for arguments that do not fit.

    !!! example

        ```python
        step = lower(state, env=env, optimizer=optimizer, prompts=8, group=8).compile()
        state, metrics = step.call(state)
        ```
    """
    start = time.perf_counter()
    program = eqx.filter_jit(_step, donate="all-except-first")
    lowered = program.lower(fixed, state)  # pyright: ignore[reportFunctionMemberAccess]
    return LoweredStep(lowered.compile, fixed, time.perf_counter() - start)


def fit(
    state: TrainState,
    *,
    step: Callable[[TrainState], tuple[TrainState, Metrics]],
    steps: int,
    report: Callable[[int, dict[str, float]], None],
) -> TrainState:
    """Takes a number of steps, and reports each.

    **Arguments:**

    - `state`: the state before the first.
    - `step`: such as `CompiledStep.call`.
    - `steps`: how many.
    - `report`: is given each step's number, from 1, and its metrics on the host, to
        which `step_time` in seconds is added. They are read from the device at once.

    **Returns:** the state after the last step.
    """
    for number in range(1, steps + 1):
        start = time.perf_counter()
        state, metrics = step(state)
        # Waits for the step: the clock stops after it.
        values = {name: float(x) for name, x in jax.device_get(metrics).items()}
        report(number, {"step_time": time.perf_counter() - start, **values})
    return state
