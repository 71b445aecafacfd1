"""The train step, compiled once and called step by step."""

import dataclasses
import functools as ft
import inspect
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

import equinox as eqx
import jax

from ..._train import collect, learn, train_step
from ...types import Metrics, TrainState
from ..distributed import mesh as placement
from ..io.samples import Samples
from . import allocator


Step = Callable[[TrainState], tuple[TrainState, Metrics, Samples | None]]
"""The next state, metrics, and what was said, if that was asked for."""


class CompiledStep(NamedTuple):
    """A train step as one program.

    **Fields:**

    - `call`: takes a step from a state, whose memory is reused: that state must not be
        touched again.
    - `seconds`: how long it took to trace and compile.
    - `bytes`: what the compiler says that the program needs on a device, by kind:
        `arguments`, `results`, `reused` (results that lie where arguments lay),
        `temporary`, and `peak`, the most of all these at a time. Empty where it does
        not say.
    """

    call: Step
    seconds: float
    bytes: dict[str, int]


@dataclasses.dataclass(frozen=True)
class LoweredStep:
    """A train step that has been traced, so that its arguments are known to fit.

    **Fields:**

    - `program`: compiles what was traced, a function of `fixed` and the state.
    - `fixed`: the keyword arguments of `train_step`.
    - `seconds`: how long tracing took.
    """

    program: Callable[[], Callable]
    fixed: dict
    seconds: float

    def compile(self) -> CompiledStep:
        """Compiles it."""
        start = time.perf_counter()
        program = self.program()
        allocator.give_back()
        seconds = self.seconds + time.perf_counter() - start
        return CompiledStep(ft.partial(program, self.fixed), seconds, _bytes(program))


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


_COLLECTING, _LEARNING = (
    inspect.signature(half).parameters.keys() for half in (collect, learn)
)


def lower(state: TrainState, *, completions: int = 0, **fixed) -> LoweredStep:
    """Traces `train_step` for a state, and compiles nothing yet.

    The arrays of the environment, of the algorithm and of the reward are arguments of
    the program and no constants in it.

    **Arguments:**

    - `state`: from `grpojax.init`; only its shapes matter.
    - `completions`: how many prompts the program also returns the completions of.
    - `fixed`: the keyword arguments of `train_step`.

    **Raises:** what `train_step` raises for arguments that do not fit.

    !!! example

        ```python
        step = lower(state, env=env, optimizer=optimizer, prompts=8, group=8).compile()
        state, metrics, _ = step.call(state)
        ```
    """
    start = time.perf_counter()
    inspect.signature(train_step).bind(state, **fixed)  # Refuses unknown keywords.

    def step(fixed: dict, state: TrainState):
        given = lambda names: {name: x for name, x in fixed.items() if name in names}
        experience = collect(state, **given(_COLLECTING))
        said = None
        if completions > 0:
            every = Samples.of(
                experience.trajectory, experience.rewards, experience.advantages
            )
            said = jax.tree.map(lambda x: x[:completions], every)
        next_state, metrics = learn(state, experience, **given(_LEARNING))
        return next_state, *placement.replicate((metrics, said))

    program = eqx.filter_jit(step, donate="all-except-first")
    lowered = program.lower(fixed, state)  # pyright: ignore[reportFunctionMemberAccess]
    return LoweredStep(lowered.compile, fixed, time.perf_counter() - start)


class Reading(NamedTuple):
    """What the host knows of one step.

    **Fields:**

    - `step`: its number, from 1.
    - `metrics`: with `step_time`, in seconds: the mean over the steps read together.
    - `completions`: what was said, if this is the last of the steps read together.
    """

    step: int
    metrics: dict[str, float]
    completions: Samples | None


class Readings:
    """Keeps steps' metrics on the device, and reads several steps' at once.

    A context manager: what has not been read when it is left, is read then, whatever
    the reason.

    **Arguments:**

    - `report`: is given each step's reading, in order.
    - `every`: how many steps are read together.
    """

    def __init__(self, report: Callable[[Reading], None], *, every: int = 1):
        self._report, self._every = report, every
        self._pending: list[tuple[int, Metrics]] = []
        self._completions: Samples | None = None
        self._since = time.perf_counter()

    def __enter__(self) -> "Readings":
        self._since = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del kind, error, traceback
        self.read()

    def add(self, step: int, metrics: Metrics, completions: Samples | None) -> None:
        """Takes what a step returned; reads if that makes enough of them."""
        self._pending.append((step, metrics))
        self._completions = completions
        if step % self._every == 0:
            self.read()

    def read(self) -> None:
        """Reads and reports everything so far, in one transfer."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        metrics = [measured for _, measured in pending]
        # Waits for the last of the steps: the clock stops after it.
        metrics, said = jax.device_get((metrics, self._completions))
        now = time.perf_counter()
        seconds, self._since = (now - self._since) / len(pending), now
        last = pending[-1][0]
        for (step, _), measured in zip(pending, metrics, strict=True):
            values = {name: float(x) for name, x in measured.items()}
            values = {"step_time": seconds, **values}
            self._report(Reading(step, values, said if step == last else None))


def fit(
    state: TrainState,
    *,
    step: Step,
    steps: int,
    report: Callable[[Reading], None],
    every: int = 1,
    visit: Callable[[int, TrainState, Readings], bool] = lambda *_: True,
) -> TrainState:
    """Takes steps until there have been enough, and reports each.

    **Arguments:**

    - `state`: the state before the first; its `version` says how many there have been.
    - `step`: such as `CompiledStep.call`.
    - `steps`: how many there shall have been, counted from version 0.
    - `report`: is given each step's reading, in order.
    - `every`: how many steps' metrics are read from the device together.
    - `visit`: called after every step with its number, the state and the readings, of
        which some may not have been reported: `readings.read()` does it. Whether to go
        on. It must not keep the state, whose memory the next step reuses.

    **Returns:** the state after the last step.
    """
    first = int(state.version) + 1
    with Readings(report, every=every) as readings:
        for number in range(first, steps + 1):
            state, metrics, completions = step(state)
            readings.add(number, metrics, completions)
            if not visit(number, state, readings):
                break
    return state
