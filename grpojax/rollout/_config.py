"""How many completions a step samples, and how."""

import equinox as eqx
from jaxtyping import ArrayLike, Int

from .. import sharding
from ..sharding import spmd
from ._sample import AbstractSampler, Categorical


class RolloutConfig(eqx.Module):
    """Sizes and sampler of a step's rollout.

    **Fields:**

    - `prompts`: prompts of a step.
    - `group`: completions of each prompt.
    - `train_prompts`: how many of the prompts are trained on, those whose rewards
        differ first (`advantage.take_nonzero_variance`): DAPO's oversampling at a
        static shape. All of them when `None`.
    - `slots`: how many rows are decoded at a time. A slot whose row has ended takes the
        next row, so fewer slots than rows do less work when lengths differ, and the
        tokens are the same. All rows at once when `None`. On a mesh every shard of the
        batch has its share of them.
    - `limits`: maximum length of each row, tokens, `Int[prompt group]`, between 1 and
        the environment's `max_completion_length`, which is the default.
    - `sampler`: draws the tokens, such as `Categorical(temperature)`.

    **Raises:** `ValueError` for a size that is no positive integer.

    !!! example

        ```python
        rollout = RolloutConfig(prompts=16, group=8, sampler=Categorical(0.7))
        ```
    """

    prompts: int = eqx.field(static=True)
    group: int = eqx.field(static=True)
    train_prompts: int | None = eqx.field(static=True, default=None)
    slots: int | None = eqx.field(static=True, default=None)
    limits: Int[ArrayLike, "prompt group"] | None = None
    sampler: AbstractSampler = Categorical()

    def __check_init__(self):
        check_sizes(prompts=self.prompts, group=self.group, slots=self.slots)
        check_sizes(train_prompts=self.train_prompts)
        check_sampler(self.sampler)


def check_sizes(**sizes: int | None):
    """Raises a `ValueError` unless sizes are positive integers or `None`."""
    for name, size in sizes.items():
        if size is None:
            continue
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(
                f"rollout: {name} must be a positive integer. Received {name}={size!r}."
            )


def check_sampler(sampler: AbstractSampler):
    """Raises a `TypeError` for what is no sampler, such as its class."""
    if not isinstance(sampler, AbstractSampler):
        raise TypeError(
            "rollout: `sampler` must be an instance of `rollout.AbstractSampler`. "
            f"Received {sampler!r}: pass one such as `Categorical(temperature=1.0)`."
        )


def check_shards(prompts: int, slots: int | None):
    """Raises a `ValueError` unless a mesh can split prompts and slots evenly."""
    sharding.check_prompts("prompts", prompts)
    if slots is not None and slots % spmd.shards():
        raise ValueError(
            "rollout: slots are split over the shards of the batch as prompts are, so "
            f"they must be a multiple of data x fsdp = {spmd.shards()}. Received "
            f"slots={slots}."
        )
