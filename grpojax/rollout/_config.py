"""Configuration of the rollout phase."""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import ArrayLike, Int

from .. import sharding
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
    - `cache_tokens`: number of tokens for whose keys and values the slots have room
        together, besides each slot's last ones and the prompts. At a long horizon rows
        are mostly much shorter, and so may this be. Where it does not suffice, the last
        rows start again; the sampled tokens are the same. At least one row's horizon;
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

    **Raises:** `ValueError` if a size is not a positive integer, or the sampler is
    `Truncated`; `TypeError` if `sampler` is not an `AbstractSampler`, or `behavior` not
    a function.

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

    def __check_init__(self):
        check_sizes(prompts=self.prompts, group=self.group, slots=self.slots)
        check_sizes(train_prompts=self.train_prompts, cache_tokens=self.cache_tokens)
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
