"""What a reward function is called with, from arrays that come from the device."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Num

from ...calls import Function, parameters_of
from ._messages import as_messages, messages_of


OWN = ("prompts", "completions", "completion_ids", "completion_lengths")
"""Arguments of a reward function that are no columns."""


class HostInputs(eqx.Module):
    """The arrays that are transferred to the host, and the rows that are there."""

    prompts: Int[Array | np.ndarray, "*batch prompt prefix"]
    prompt_lengths: Int[Array | np.ndarray, "*batch prompt"]
    tokens: Int[Array | np.ndarray, "*batch prompt group time"]
    sampled: Bool[Array | np.ndarray, "*batch prompt group time"]
    columns: dict[str, Num[Array | np.ndarray, "*batch prompt group"]]
    problems: Int[Array | np.ndarray, "*batch prompt"] | None = None
    rows: Mapping[str, Sequence] | None = eqx.field(static=True, default=None)


class HostOutputs(NamedTuple):
    """The reward of every row, NaN where it does not apply, and where it failed."""

    reward: Any
    failed: Any

    @classmethod
    def shapes(cls, shape: tuple[int, ...]) -> "HostOutputs":
        """Their shapes and dtypes."""
        dtypes = jnp.result_type(float), jnp.result_type(bool)
        return cls(*(jax.ShapeDtypeStruct(shape, x) for x in dtypes))


def arguments_of(
    batch: HostInputs, function: Function, decode: Callable[[list[int]], str]
) -> dict[str, list]:
    """The keyword arguments of the function, of one value for each row."""
    batch = jax.tree.map(np.asarray, batch)
    time, width = batch.tokens.shape[-1], batch.prompts.shape[-1]
    group = batch.tokens.shape[-2]
    takes = parameters_of(function).takes
    conversations = None
    columns = {name: x.reshape(-1).tolist() for name, x in batch.columns.items()}
    if batch.rows is not None and batch.problems is not None:
        problems = np.repeat(batch.problems.reshape(-1), group).tolist()
        wanted = {x: values for x, values in batch.rows.items() if takes(x)}
        columns = {x: [y[i] for i in problems] for x, y in wanted.items()} | columns
        conversations = messages_of(batch.rows, problems)
    # One past the last sampled token.
    ends = (batch.sampled * np.arange(1, time + 1)).max(axis=-1, initial=0)
    flat = zip(batch.tokens.reshape(-1, time), ends.reshape(-1), strict=True)
    ids = [x[:end].tolist() for x, end in flat]
    lengths = batch.prompt_lengths.reshape(-1)
    flat = zip(batch.prompts.reshape(-1, width), lengths, strict=True)
    prompts = [decode(x[:length].tolist()) for x, length in flat]
    prompts = [text for text in prompts for _ in range(group)]
    completions = [decode(x) for x in ids]
    own = {
        "prompts": as_messages(prompts, conversations, completion=False),
        "completions": as_messages(completions, conversations, completion=True),
        "completion_ids": ids,
        "completion_lengths": batch.sampled.sum(axis=-1).reshape(-1).tolist(),
    }
    return {x: y for x, y in (columns | own).items() if takes(x)}
