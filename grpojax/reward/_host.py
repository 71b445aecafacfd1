"""Rewards computed by Python functions on the host."""

import dataclasses
import functools as ft
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsFloat

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from .._checks import check_at_least, check_parts
from ..sharding import spmd
from ..types import Rewards, Trajectory


_logger = logging.getLogger(__name__)

Judge = Callable[..., Sequence[SupportsFloat | None]]
"""Called as `function(prompts=[...], completions=[...], **columns)`."""

_RowRewards = Float[np.ndarray, "*rows"]
_RowMask = Bool[np.ndarray, "*rows"]


class HostInputs(eqx.Module):
    """The arrays that are transferred to the host."""

    prompts: Int[Array | np.ndarray, "*batch prompt prefix"]
    prompt_lengths: Int[Array | np.ndarray, "*batch prompt"]
    tokens: Int[Array | np.ndarray, "*batch prompt group time"]
    sampled: Bool[Array | np.ndarray, "*batch prompt group time"]
    columns: dict[str, Num[Array | np.ndarray, "*batch prompt group"]]


class HostOutputs(NamedTuple):
    """The reward of every row, NaN where it does not apply, and where it failed."""

    reward: Any
    failed: Any

    @classmethod
    def shapes(cls, shape: tuple[int, ...]) -> "HostOutputs":
        """Their shapes and dtypes."""
        dtypes = jnp.result_type(float), jnp.result_type(bool)
        return cls(*(jax.ShapeDtypeStruct(shape, x) for x in dtypes))


def _no_columns(trajectory: Trajectory) -> Mapping[str, Array]:
    del trajectory
    return {}


class HostReward(eqx.Module):
    """A reward computed by a Python function of the texts of a batch.

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
    exceeds the time limit of `InProcess` or `InThread`, the rows of the call get the
    reward `on_error`. They are counted in `Rewards.errors`, a warning with the
    component's name and the error goes to the logger `grpojax.reward`, and the run goes
    on. `None` for a row means that the reward does not apply to it.

    The function should be pure: the compiled program may call it more than once, and a
    resumed run calls it again. It must not use JAX, whose threads may be waiting for
    it.

    **Fields:**

    - `function`: called as `function(prompts=texts, completions=texts, **columns)` with
        lists of one length, and returns a list of it. TRL's reward functions over plain
        text are such.
    - `decode`: token ids to text, such as `tokenizer.decode`. A completion is decoded
        up to the last token that was sampled, an environment's replies included.
    - `name`: of the component.
    - `columns`: further keyword arguments of the function, by name: arrays of the
        trajectory, each `[prompt]` or `[prompt group]`.
    - `batch_size`: rows of one call, which fail together; all rows when `None`.
    - `on_error`: the reward of a row on which the function failed.

    **Raises:** `ValueError` for a `batch_size` below 1; `TypeError` for a class in
    place of an instance.

    !!! example

        ```python
        def brief(prompts, completions, **_):
            return [1.0 if len(text.split()) < 20 else 0.0 for text in completions]

        judge = HostReward(brief, tokenizer.decode, name="brief")
        reward = WeightedSum({"correct": 1.0, "brief": 0.2}, judge)
        ```

    With the answers, which are the states of the `GSM8K` environment, as a column:

        ```python
        def near(prompts, completions, answers):
            found = [re.findall(r"-?[0-9]+", text) or [0] for text in completions]
            return [float(abs(int(x[-1]) - y) < 2) for x, y in zip(found, answers)]

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
    batch_size: int | None = eqx.field(static=True, kw_only=True, default=None)
    on_error: float = eqx.field(static=True, kw_only=True, default=-1.0)

    def __check_init__(self):
        check_parts(
            "HostReward",
            function=self.function,
            decode=self.decode,
            columns=self.columns,
        )
        check_at_least("HostReward", 1, batch_size=self.batch_size)

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
        """The arrays that the function is computed from."""
        shape, prompt = trajectory.terminated.shape, trajectory.prompt
        columns: dict[str, Array | np.ndarray] = {
            name: jnp.broadcast_to(x[:, None] if x.ndim == 1 else x, shape)
            for name, x in self.columns(trajectory).items()
        }
        return HostInputs(
            prompt.tokens, prompt.length, trajectory.tokens, trajectory.sampled, columns
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
        batch = jax.tree.map(np.asarray, batch)
        shape, time = batch.tokens.shape[:-1], batch.tokens.shape[-1]
        width = batch.prompts.shape[-1]
        flat = zip(
            batch.prompts.reshape(-1, width),
            batch.prompt_lengths.reshape(-1),
            strict=True,
        )
        prompts = [self.decode(x[:length].tolist()) for x, length in flat]
        prompts = [text for text in prompts for _ in range(shape[-1])]
        # One past the last sampled token.
        ends = (batch.sampled * np.arange(1, time + 1)).max(axis=-1, initial=0)
        flat = zip(batch.tokens.reshape(-1, time), ends.reshape(-1), strict=True)
        completions = [self.decode(x[:end].tolist()) for x, end in flat]
        columns = {name: x.reshape(-1).tolist() for name, x in batch.columns.items()}
        columns = {"prompts": prompts, "completions": completions, **columns}
        rewards, failed = self._call(columns, len(completions), dtype)
        return HostOutputs(rewards.reshape(shape), failed.reshape(shape))

    def _call(
        self, columns: dict[str, list], count: int, dtype: np.dtype
    ) -> tuple[_RowRewards, _RowMask]:
        """Calls the function on slices of the columns; logs what it raised."""
        rewards = np.full(count, self.on_error, dtype)
        failed = np.ones(count, bool)
        errors: dict[str, list[str]] = {}
        step = self.batch_size or count
        for start in range(0, count, step):
            rows = slice(start, start + step)
            arguments = {name: values[rows] for name, values in columns.items()}
            size = len(arguments["completions"])
            try:
                rewards[rows] = _numbers(self.function(**arguments), size)
            except Exception as error:  # A user's function may raise anything.
                messages = errors.setdefault(type(error).__name__, [])
                messages += [str(error)] * size
            else:
                failed[rows] = False
        for kind, messages in errors.items():
            _logger.warning(
                "The host reward %r failed on %d of %d rows, which get %g. %s: %s",
                *(self.name, len(messages), count, self.on_error, kind, messages[0]),
            )
        return rewards, failed


def _numbers(values: Sequence[SupportsFloat | None], count: int) -> list[float]:
    """One finite number for each row, or NaN where the reward does not apply."""
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
