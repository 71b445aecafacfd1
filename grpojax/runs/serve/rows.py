"""Completions that a service is asked for, and their tokens."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ...rollout import RowSampler


STOP, LENGTH = "stop", "length"


class Chunk(NamedTuple):
    """New tokens of a row.

    **Fields:**

    - `tokens`, `log_probs`, `versions`: of each token, in nats, and its policy's.
    - `finish`: why the row ended: `"stop"` or `"length"`; `None` while it goes on.
    - `error`: what went wrong, if something did; it is the last chunk then.
    """

    tokens: Sequence[int]
    log_probs: Sequence[float]
    versions: Sequence[int]
    finish: str | None = None
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a row is sampled: the numbers of `rollout.RowSampler`."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A completion that is asked for.

    **Fields:**

    - `prompt`: its tokens.
    - `max_tokens`: of the completion.
    - `sampling`: how its tokens are drawn.
    - `seed`, `member`: row `member` of `rollout.complete` with `key(seed)`.
    - `deliver`: called with each `Chunk`, in the service's thread.
    """

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling
    seed: int
    member: int
    deliver: Callable[[Chunk], None]


def sampler_of(rows: Sequence[Sampling]) -> RowSampler:
    """The sampler of several rows."""
    numbers = lambda name, dtype: jnp.asarray(
        np.array([getattr(row, name) for row in rows], dtype)
    )
    return RowSampler(
        numbers("temperature", np.float32),
        numbers("top_k", np.int32),
        numbers("top_p", np.float32),
        numbers("min_p", np.float32),
    )
