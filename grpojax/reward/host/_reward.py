"""Rewards computed by Python functions on the host."""

import dataclasses
import difflib
import functools as ft
import logging
import math
from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._checks import check_parts
from ...calls import (
    call_batches,
    call_once,
    Calls,
    concurrency_of,
    Function,
    numbers,
    parameters_of,
)
from ...sharding import spmd
from ...types import Rewards, Trajectory
from ._inputs import arguments_of, HostInputs, HostOutputs, OWN


_logger = logging.getLogger(__name__)


def _no_columns(trajectory: Trajectory) -> Mapping[str, Array]:
    del trajectory
    return {}


class HostReward(eqx.Module):
    """A reward computed by a Python function of the texts of a batch.

    The function is called as TRL calls its own, with lists of one value for each row:

    - `prompts`, `completions`: texts. A completion is decoded up to the last token that
        was sampled, an environment's replies included. Where the row has messages, a
        list of `{"role": ..., "content": ...}` in its column `messages` or `prompt`,
        these are the prompt, and the completion is the assistant's message in a list.
    - `completion_ids`: the completion's tokens; `completion_lengths`: how many of them
        the policy sampled.
    - every column of the environment's `rows`, by name, as it is there.

    It is given only those that it has a parameter for, or all of them if it takes
    `**columns`, and returns a list of numbers. `None` for a row means that the reward
    does not apply to it. It may be `async`.

    Inside a compiled program it is one callback for the whole batch, under `jit`,
    `scan` and `vmap` alike; on a mesh one for each shard of the batch, on the host that
    holds it. Outside of one it is a plain call. `fit` calls it between two programs,
    which XLA's persistent cache can keep, as it cannot a program with a callback:

        trajectory, inputs = jit(rollout)(state)
        outputs = call(function, inputs)               # Python, and no callback
        state, metrics = jit(rewards, advantages and update)(state, trajectory, outputs)

    It finds host rewards that are leaves of the reward's pytree, as those of
    `WeightedSum` and `Chain` are. The results are the same bit for bit.

    Where a function raises, returns anything but one finite number for each row, or
    exceeds its time limit, the rows of the call get the reward `on_error`. They are
    counted in `Rewards.errors`, a warning with the component's name and the error goes
    to the logger `grpojax.reward`, and the run goes on.

    The function should be pure: the compiled program may call it more than once, and a
    resumed run calls it again. It must not use JAX, whose threads may be waiting for
    it.

    **Fields:**

    - `function`: called with the keyword arguments above.
    - `decode`: token ids to text, such as `tokenizer.decode`.
    - `name`: of the component.
    - `columns`: further keyword arguments of the function, by name: arrays of the
        trajectory, each `[prompt]` or `[prompt group]`.
    - `batch_size`, `concurrency`, `seconds`, `retries`, `backoff`: see `Calls`; where
        `None`, that of the function's attribute `calls` if it has one.
    - `on_error`: the reward of a row on which the function failed.

    **Raises:** `ValueError` for a number out of range and, when called, for a column
    that the function needs and that is not there; `TypeError` for a class in place of
    an instance.

    !!! example

        ```python
        def brief(completions, **_):
            return [1.0 if len(text.split()) < 20 else 0.0 for text in completions]

        judge = HostReward(brief, tokenizer.decode, name="brief")
        reward = WeightedSum({"correct": 1.0, "brief": 0.2}, judge)
        ```

    With an array of the trajectory, here the states of an environment, as a column:

        ```python
        def near(completions, answers):
            found = [re.findall(r"-?[0-9]+", text) or [0] for text in completions]
            return [float(abs(int(x[-1]) - y) < 2) for x, y in zip(found, answers)]

        columns = lambda trajectory: {"answers": trajectory.states}
        judge = HostReward(near, tokenizer.decode, name="near", columns=columns)
        ```
    """

    function: Function
    decode: Callable[[list[int]], str]
    name: str = eqx.field(static=True, kw_only=True)
    columns: Callable[[Trajectory], Mapping[str, Array]] = eqx.field(
        kw_only=True, default=_no_columns
    )
    batch_size: int | None = eqx.field(static=True, kw_only=True, default=None)
    concurrency: int | None = eqx.field(static=True, kw_only=True, default=None)
    seconds: float | None = eqx.field(static=True, kw_only=True, default=None)
    retries: int | None = eqx.field(static=True, kw_only=True, default=None)
    backoff: float | None = eqx.field(static=True, kw_only=True, default=None)
    on_error: float = eqx.field(static=True, kw_only=True, default=-1.0)

    def __check_init__(self):
        check_parts(
            "HostReward",
            function=self.function,
            decode=self.decode,
            columns=self.columns,
        )
        self.calls  # noqa: B018  # Raises for what is out of range.

    @property
    def calls(self) -> Calls:
        """How the function is called."""
        own = getattr(self.function, "calls", None)
        fields = [field.name for field in dataclasses.fields(Calls)]
        given = {x: y for x in fields if (y := getattr(self, x)) is not None}
        return dataclasses.replace(own if isinstance(own, Calls) else Calls(), **given)

    @property
    def waits(self) -> bool:
        """Whether several calls are made at a time, as of functions that wait."""
        return concurrency_of(self.function, self.calls) > 1

    def __call__(self, trajectory: Trajectory) -> Rewards:
        batch = self.inputs(trajectory)
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(batch)):

            def callback(batch: HostInputs):
                result = HostOutputs.shapes(batch.tokens.shape[:-1])
                compute = ft.partial(self.compute, dtype=result.reward.dtype)
                return jax.pure_callback(
                    compute, result, batch, vmap_method="broadcast_all"
                )

            return self.rewards(trajectory, spmd.shard_map_callback(callback, batch))
        outputs = self.compute(batch, np.dtype(jnp.result_type(float)))
        return self.rewards(trajectory, jax.tree.map(jnp.asarray, outputs))

    def inputs(self, trajectory: Trajectory) -> HostInputs:
        """The arrays that the function is computed from.

        **Raises:** `ValueError` for a column that the function needs and that is not
        there.
        """
        shape, prompt = trajectory.terminated.shape, trajectory.prompt
        columns: dict[str, Array | np.ndarray] = {
            name: jnp.broadcast_to(x[:, None] if x.ndim == 1 else x, shape)
            for name, x in self.columns(trajectory).items()
        }
        problems = trajectory.problems
        rows = None if problems is None else trajectory.rows
        self._check_columns([*columns, *(rows or {})])
        return HostInputs(
            prompt.tokens,
            prompt.length,
            trajectory.tokens,
            trajectory.sampled,
            columns,
            None if rows is None else problems,
            rows,
        )

    def reads(self, column: str) -> bool:
        """Whether the function is called with a column, if the rows have it."""
        return parameters_of(self.function).takes(column)

    def _check_columns(self, there: Sequence[str]) -> None:
        needed = parameters_of(self.function).required
        missing = sorted(needed - {*OWN, *there})
        if not missing:
            return
        near = difflib.get_close_matches(missing[0], [*there, *OWN], n=1, cutoff=0.0)
        raise ValueError(
            f"A reward function takes {', '.join(OWN)} and columns of the rows. "
            f"Received {self.name!r}, which needs {', '.join(missing)}, and rows "
            f"with {', '.join(there) or 'no columns'}: the nearest to `{missing[0]}` "
            f"is `{near[0]}`. Name what is there, or give the parameter a default."
        )

    def rewards(self, trajectory: Trajectory, outputs: HostOutputs) -> Rewards:
        """The rewards of a trajectory, from what the function returned."""
        reward = outputs.reward
        rewards = Rewards.of(
            reward, name=self.name, valid=~jnp.isnan(reward), lengths=trajectory.lengths
        )
        return dataclasses.replace(rewards, errors={self.name: outputs.failed})

    def compute(self, batch: HostInputs, dtype: np.dtype) -> HostOutputs:
        """Calls the function on the host; NumPy only."""
        shape = batch.tokens.shape[:-1]
        count = math.prod(shape)
        rewards, failed = np.full(count, self.on_error, dtype), np.ones(count, bool)
        errors: dict[str, list[str]] = {}
        arguments = arguments_of(batch, self.function, self.decode)
        for called in call_batches(self.function, arguments, count, self.calls):
            if called.rewards is None:
                messages = errors.setdefault(type(called.error).__name__, [])
                messages += [str(called.error)] * (called.rows.stop - called.rows.start)
            else:
                rewards[called.rows], failed[called.rows] = called.rewards, False
        for kind, messages in errors.items():
            _logger.warning(
                "The host reward %r failed on %d of %d rows, which get %g. %s: %s",
                *(self.name, len(messages), count, self.on_error, kind, messages[0]),
                extra={"component": self.name, "error": f"{kind}: {messages[0]}"},
            )
        return HostOutputs(rewards.reshape(shape), failed.reshape(shape))

    def dry_call(self, batch: HostInputs) -> None:
        """Calls the function on a batch of one row, to find out whether it can be.

        A function with a method `dry_call`, such as a judge, is asked by that instead.
        An error that may be due to the row, or to a server that is not there yet, is
        logged as a warning.

        **Raises:** `ValueError` for a function that raises `TypeError`, or returns
        anything but one finite number or `None` for each row.
        """
        arguments = arguments_of(batch, self.function, self.decode)
        own = getattr(self.function, "dry_call", None)
        try:
            if own is not None:
                own(**arguments)
                return
            answer = call_once(self.function, arguments, self.calls.seconds)
        except (TypeError, ImportError) as error:
            raise self._refusal(error) from error
        except Exception as error:  # A user's function may raise anything.
            if own is not None:
                raise self._refusal(error) from error
            _logger.warning(
                "The host reward %r failed on one row before the first step. %s: %s",
                *(self.name, type(error).__name__, error),
            )
            return
        try:
            numbers(answer, 1)
        except (TypeError, ValueError) as error:
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> ValueError:
        return ValueError(
            f"The reward function {self.name!r} must return a finite number, or None, "
            f"for each completion. Received {type(error).__name__} from a call on one "
            f"row: {error}. Correct the function, or its arguments."
        )
