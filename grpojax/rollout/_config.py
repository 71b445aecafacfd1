"""Configuration of the rollout phase."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, ArrayLike, Int

from .. import sharding
from .._checks import check_counts
from ..policy import AbstractPolicy
from ..sharding import spmd
from ._sample import AbstractSampler, Categorical, Truncated


class RolloutConfig(eqx.Module):
    """Sizes and sampler of a step's rollout.

    **Fields:**

    - `prompts`: number of prompts per step.
    - `group`: number of completions per prompt, TRL's `num_generations`.
    - `train_prompts`: number of prompts to train on, those with nonzero reward variance
        first (`advantage.take_nonzero_variance`): DAPO's dynamic sampling at a static
        shape. All of them when `None`.
    - `slots`: number of rows decoded concurrently. A finished slot is refilled with the
        next row, so fewer slots than rows waste less compute when lengths differ; the
        sampled tokens are the same. All rows at once when `None`. On a mesh the slots
        are split evenly over the data-parallel shards.
    - `cache_tokens`: budget of cached completion tokens, shared by the slots, besides
        each slot's latest ones and the prompts. At a long horizon rows are mostly much
        shorter, and so may this be. When it runs out, the newest rows are preempted
        and start again; the sampled tokens are the same. At least one row's horizon;
        that of every slot when `None`. On a mesh it is split over the data-parallel
        shards.
    - `limits`: maximum completion length of each row in tokens, `Int[prompt group]`,
        clipped to between 1 and the environment's `max_completion_length`, which is
        the default.
    - `sampler`: draws the tokens, such as `Categorical(temperature)`.
    - `behavior`: derives the behavior policy, which samples, from the trained policy,
        at the start of every rollout. With `models.quantize` decoding reads weights of
        8 bits. Log-probs are recorded under the behavior policy. By default that is the
        trained policy itself.
    - `staleness`: the policy that samples is the one of so many versions before, as in
        asynchronous training, and the curriculum chooses by what it knew then. The
        train state keeps those policies: `TrainStep.init`. As an array it can be swept
        by `vmap`. The current policy samples when `None`.

    - `partial_prompts`: number of unfinished prompts carried from step to step (partial
        rollouts). A step samples `prompts + partial_prompts` and ends as soon as
        `prompts` of them are complete, on a mesh as soon as each shard has its part;
        the rows of the others are continued by the next policy. The time of a step
        follows its tokens, not its longest row. A multiple of `prompts`; none when
        `None`.

    **Raises:** `ValueError` if a size is not a positive integer, `staleness` is
    negative, `train_prompts` is above `prompts`, `partial_prompts` is no multiple of
    `prompts` or stands beside what it excludes, or the sampler is `Truncated`;
    `TypeError` if `sampler` is not an `AbstractSampler`, or `behavior` not a function.

    !!! example

        ```python
        rollout = RolloutConfig(prompts=16, group=8, sampler=Categorical(0.7))
        rollout = RolloutConfig(prompts=16, group=8, behavior=models.quantize)
        ```
    """

    prompts: int = eqx.field(static=True)
    group: int = eqx.field(static=True)
    train_prompts: int | None = eqx.field(static=True, default=None)
    slots: int | None = eqx.field(static=True, default=None)
    cache_tokens: int | None = eqx.field(static=True, default=None)
    limits: Int[ArrayLike, "prompt group"] | None = None
    sampler: AbstractSampler = Categorical()
    behavior: Callable[[AbstractPolicy], AbstractPolicy] | None = None
    staleness: int | Int[Array, ""] | None = None
    partial_prompts: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if isinstance(self.staleness, int):
            check_counts("RolloutConfig", 0, staleness=self.staleness)
        check_sizes(prompts=self.prompts, group=self.group, slots=self.slots)
        check_sizes(train_prompts=self.train_prompts, cache_tokens=self.cache_tokens)
        self._check_partial()
        if self.train_prompts is not None and self.train_prompts > self.prompts:
            raise ValueError(
                "rollout: train_prompts are some of the prompts. Received "
                f"train_prompts={self.train_prompts} of prompts={self.prompts}: lower "
                "it, or sample more."
            )
        check_sampler(self.sampler)
        if isinstance(self.sampler, Truncated):
            raise ValueError(
                "rollout: tokens are trained on with the log-probabilities of the whole"
                " softmax, which are not those of a truncated one. Received "
                f"sampler={self.sampler}: sample with `Categorical` here, and truncate "
                "in evaluations."
            )
        if self.behavior is not None and not callable(self.behavior):
            raise TypeError(
                "rollout: `behavior` must be a function of the trained policy. "
                f"Received {self.behavior!r}: pass one such as `models.quantize`."
            )

    def _check_partial(self):
        check_counts("RolloutConfig", 0, partial_prompts=self.partial_prompts)
        if self.steps_ahead * self.prompts != (self.partial_prompts or 0):
            raise ValueError(
                "rollout: partial_prompts must be a multiple of prompts. Received "
                f"partial_prompts={self.partial_prompts} and prompts={self.prompts}."
            )
        others = ("cache_tokens", None), ("limits", None), ("staleness", None)
        for name, default in others:
            value = getattr(self, name)
            if self.partial_prompts and value is not default:
                raise ValueError(
                    "rollout: rows of partial_prompts go on under the next policy, each"
                    f" up to the horizon. Received {name}={value!r} besides: leave out "
                    "either."
                )

    @property
    def steps_ahead(self) -> int:
        """The steps whose prompts `partial_prompts` are."""
        return (self.partial_prompts or 0) // self.prompts

    @property
    def versions_behind(self) -> int | Int[Array, ""]:
        """`staleness` as a number."""
        return 0 if self.staleness is None else self.staleness

    def behavior_policy(self, policy: AbstractPolicy) -> AbstractPolicy:
        """The policy that samples, sharded as the trained policy is.

        **Arguments:**

        - `policy`: the trained policy.

        **Raises:** `TypeError` if `behavior` does not return a policy.
        """
        if self.behavior is None:
            return policy
        found = self.behavior(policy)
        if not isinstance(found, AbstractPolicy):
            raise TypeError(
                "rollout: `behavior` must return the policy that samples. Received "
                f"{type(found).__name__} from {self.behavior!r}: return an "
                "`AbstractPolicy`."
            )
        # So that a mesh all-gathers 8 bits, and not what they are computed from.
        return sharding.constrain(found)


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
    """Raises a `TypeError` unless `sampler` is an `AbstractSampler` instance."""
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
