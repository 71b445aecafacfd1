"""Rewards that only Python can compute."""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import SupportsFloat

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from ..sharding import spmd
from ..types import Rewards, Trajectory


_logger = logging.getLogger(__name__)

Judge = Callable[..., Sequence[SupportsFloat | None]]
"""Called as `judge(prompts=[...], completions=[...], **columns)`."""

Paid = Float[np.ndarray, "*rows"]
Failed = Bool[np.ndarray, "*rows"]


class _Rows(eqx.Module):
    """What crosses to the host."""

    prompts: Int[Array | np.ndarray, "*batch prompt prefix"]
    prompt_lengths: Int[Array | np.ndarray, "*batch prompt"]
    tokens: Int[Array | np.ndarray, "*batch prompt group time"]
    sampled: Bool[Array | np.ndarray, "*batch prompt group time"]
    columns: dict[str, Num[Array | np.ndarray, "*batch prompt group"]]


def _no_columns(trajectory: Trajectory) -> Mapping[str, Array]:
    del trajectory
    return {}


class HostReward(eqx.Module):
    """Any Python function over the texts of a batch.

    Inside a compiled program it is one callback for the whole batch, under `jit`,
    `scan` and `vmap` alike; on a mesh one for each part of the batch, on the host that
    holds it. Outside of one it is a plain call, which is the
    second way to compose a step:

        trajectory = jit(rollout.generate)(...)
        rewards = reward(trajectory)                   # Python, and no callback
        policy, ... = jit(update.improve)(..., trajectory, ...)

    A function that raises, or that returns anything but one finite number for each row,
    costs the rows it was asked about `on_error`; so does one that takes too long, if it
    is wrapped in `InProcess` or `InThread`. They are counted in `Rewards.errors`, a
    warning with the component's name and the error goes to the logger `grpojax.reward`,
    and the run goes on. `None` for a row says that the reward does not apply to it.

    The function should depend on nothing but its arguments: the compiled program may
    call it more than once, and a run that is resumed calls it again. It must not use
    JAX, whose threads may be waiting for it.

    **Fields:**

    - `function`: called as `function(prompts=texts, completions=texts, **columns)` with
        lists of one length, and returns a list of it. TRL's reward functions over plain
        text are such.
    - `decode`: token ids to text, such as `tokenizer.decode`. A completion is decoded
        up to the last token that was sampled, an environment's replies included.
    - `name`: of the component.
    - `columns`: what else the function is told: a trajectory's numbers by name, each
        `[prompt]` or `[prompt group]`.
    - `at_a_time`: how many rows are asked about in one call, and so are lost in one
        failure; all of them when `None`.
    - `on_error`: what a row on which the function failed is paid.

    **Raises:** `ValueError` for an `at_a_time` below 1.

    !!! example

        ```python
        def brief(prompts, completions, **_):
            return [1.0 if len(text.split()) < 20 else 0.0 for text in completions]

        judge = HostReward(brief, tokenizer.decode, name="brief")
        reward = WeightedSum({"correct": 1.0, "brief": 0.2}, judge)
        ```

    and one that is told the answers, which are the states of the `GSM8K` environment:

        ```python
        def near(prompts, completions, answers):
            said = [re.findall(r"-?[0-9]+", text) or [0] for text in completions]
            return [float(abs(int(x[-1]) - y) < 2) for x, y in zip(said, answers)]

        columns = lambda trajectory: {"answers": trajectory.states}
        judge = HostReward(near, tokenizer.decode, name="near", columns=columns)
        ```
    """

    function: Judge
    decode: Callable[[list[int]], str]
    name: str = eqx.field(static=True, kw_only=True)
    columns: Callable[[Trajectory], Mapping[str, Array]] = eqx.field(
        kw_only=True, default=_no_columns
    )
    at_a_time: int | None = eqx.field(static=True, kw_only=True, default=None)
    on_error: float = eqx.field(static=True, kw_only=True, default=-1.0)

    def __check_init__(self):
        if self.at_a_time is not None and self.at_a_time < 1:
            raise ValueError(
                "HostReward(at_a_time): at least one row is asked about in a call. "
                f"Received {self.at_a_time}."
            )

    def __call__(self, trajectory: Trajectory) -> Rewards:
        shape = trajectory.terminated.shape
        columns: dict[str, Array | np.ndarray] = {
            name: jnp.broadcast_to(x[:, None] if x.ndim == 1 else x, shape)
            for name, x in self.columns(trajectory).items()
        }
        prompt = trajectory.prompt
        rows = _Rows(
            prompt.tokens, prompt.length, trajectory.tokens, trajectory.sampled, columns
        )
        dtype = jnp.result_type(float)
        judge = lambda rows: self._judge(rows, np.dtype(dtype))
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(rows)):

            def ask(rows: _Rows):
                shape = rows.tokens.shape[:-1]
                answer = tuple(jax.ShapeDtypeStruct(shape, x) for x in (dtype, bool))
                return jax.pure_callback(
                    judge, answer, rows, vmap_method="broadcast_all"
                )

            paid, failed = spmd.shard_map_callback(ask, rows)
        else:
            paid, failed = (jnp.asarray(x) for x in judge(rows))
        rewards = Rewards.of(
            paid, name=self.name, valid=~jnp.isnan(paid), lengths=trajectory.lengths
        )
        return dataclasses.replace(rewards, errors={self.name: failed})

    def _judge(self, rows: _Rows, dtype: np.dtype) -> tuple[Paid, Failed]:
        """What every row is paid, and where the function failed. NumPy alone."""
        rows = jax.tree.map(np.asarray, rows)
        shape, time = rows.tokens.shape[:-1], rows.tokens.shape[-1]
        width = rows.prompts.shape[-1]
        flat = zip(
            rows.prompts.reshape(-1, width),
            rows.prompt_lengths.reshape(-1),
            strict=True,
        )
        prompts = [self.decode(x[:length].tolist()) for x, length in flat]
        prompts = [text for text in prompts for _ in range(shape[-1])]
        # One past the last sampled token.
        ends = (rows.sampled * np.arange(1, time + 1)).max(axis=-1, initial=0)
        flat = zip(rows.tokens.reshape(-1, time), ends.reshape(-1), strict=True)
        completions = [self.decode(x[:end].tolist()) for x, end in flat]
        told = {name: x.reshape(-1).tolist() for name, x in rows.columns.items()}
        told = {"prompts": prompts, "completions": completions, **told}
        paid, failed = self._ask(told, len(completions), dtype)
        return paid.reshape(shape), failed.reshape(shape)

    def _ask(
        self, told: dict[str, list], count: int, dtype: np.dtype
    ) -> tuple[Paid, Failed]:
        paid = np.full(count, self.on_error, dtype)
        failed = np.ones(count, bool)
        complaints: dict[str, list[str]] = {}
        step = self.at_a_time or count
        for start in range(0, count, step):
            part = slice(start, start + step)
            some = {name: values[part] for name, values in told.items()}
            rows = len(some["completions"])
            try:
                paid[part] = _numbers(self.function(**some), rows)
            except Exception as error:  # Whatever a stranger's function may raise.
                kind = complaints.setdefault(type(error).__name__, [])
                kind += [str(error)] * rows
            else:
                failed[part] = False
        for kind, rows in complaints.items():
            _logger.warning(
                "The host reward %r failed on %d of %d rows, which are paid %g. %s: %s",
                *(self.name, len(rows), count, self.on_error, kind, rows[0]),
            )
        return paid, failed


def _numbers(values: Sequence[SupportsFloat | None], count: int) -> list[float]:
    """One finite number for each row; NaN stands for a reward that does not apply."""
    numbers = [math.nan if value is None else float(value) for value in values]
    if len(numbers) != count:
        raise ValueError(
            "a host reward returns one number for each completion. Received "
            f"{len(numbers)} for {count}"
        )
    for value, number in zip(values, numbers, strict=True):
        if value is not None and not math.isfinite(number):
            raise ValueError(f"a host reward returns finite numbers. Received {value}")
    return numbers
