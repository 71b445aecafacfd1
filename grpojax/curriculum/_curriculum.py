"""The contract of a curriculum, and the uniform one."""

import abc
from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key

from ..env import AbstractDatasetEnvironment
from ..types import Rewards


_Memory = TypeVar("_Memory")


class AbstractCurriculum(eqx.Module, Generic[_Memory]):
    """Chooses the problems of each step, by what it remembers of the steps before.

    Its memory is part of the train state: it is checkpointed, carried by `lax.scan`,
    batched by `vmap` over seeds, and replicated on a mesh. `draw` and `observe` are
    pure and have static shapes.

    !!! example

        ```python
        chosen = curriculum.ShuffledEpochs()
        memory = chosen.init(env)
        state = grpojax.init(policy, optimizer=optimizer, key=key, curriculum=memory)
        step = TrainStep(env, optimizer, rollout=rollout, curriculum=chosen)
        ```
    """

    @abc.abstractmethod
    def init(self, env: AbstractDatasetEnvironment) -> _Memory:
        """The memory at the start of a run: a pytree of arrays.

        **Arguments:**

        - `env`: has the problems, with their number, columns and tasks.
        """

    @abc.abstractmethod
    def draw(
        self, memory: _Memory, key: Key[Array, ""], step: Int[Array, ""], count: int
    ) -> Int[Array, " count"]:
        """The problems of a step.

        **Arguments:**

        - `memory`: from `init`, or after the step before.
        - `key`: the root PRNG key of the run, the same in every step: `step_key` is
            that of one step.
        - `step`: the index of the step, from 0.
        - `count`: how many problems.

        **Returns:** problem numbers, from 0 to `env.size - 1`.
        """

    def advance(self, memory: _Memory, problems: Int[Array, " prompt"]) -> _Memory:
        """The memory after problems were drawn, before anything is known of them.

        By default the memory itself. Rollouts may be sampled ahead, with `staleness` or
        `partial_prompts`: several draws then come before the first `observe`.

        **Arguments:**

        - `memory`: that of `draw`.
        - `problems`: those that `draw` returned.
        """
        del problems
        return memory

    @abc.abstractmethod
    def observe(
        self, memory: _Memory, problems: Int[Array, " prompt"], rewards: Rewards
    ) -> _Memory:
        """The memory after a step.

        **Arguments:**

        - `memory`: after the latest `advance`.
        - `problems`: those of the step's completions.
        - `rewards`: of the completions, before any are selected for training.

        **Returns:** the memory, of the same structure, shapes and dtypes.
        """


def step_key(key: Key[Array, ""], step: Int[Array, ""]) -> Key[Array, ""]:
    """The key of a step's draws: the one that `rollout.generate` resets with."""
    return jr.split(jr.fold_in(key, step))[0]


class Size(eqx.Module):
    """A memory of nothing but the number of problems."""

    problems: int = eqx.field(static=True)


class Uniform(AbstractCurriculum[Size]):
    """Every problem with the same probability, in every step, with replacement.

    The problems are those of a step without a curriculum, bit for bit.
    """

    def init(self, env: AbstractDatasetEnvironment) -> Size:
        return Size(env.size)

    def draw(
        self, memory: Size, key: Key[Array, ""], step: Int[Array, ""], count: int
    ) -> Int[Array, " count"]:
        prompts = jnp.arange(count, dtype=jnp.uint32)
        keys = jax.vmap(jr.fold_in, (None, 0))(step_key(key, step), prompts)
        return jax.vmap(lambda key: jr.randint(key, (), 0, memory.problems))(keys)

    def observe(
        self, memory: Size, problems: Int[Array, " prompt"], rewards: Rewards
    ) -> Size:
        del problems, rewards
        return memory


def sample(
    weights: Float[Array, " choice"], key: Key[Array, ""], count: int
) -> Int[Array, " count"]:
    """Choices in proportion to weights, by stratified sampling.

        choice_i = the first c with Σ_{j <= c} weights_j > (i + u_i) / count · Σ weights

    with independent uniform u_i. The expected number of draws of each choice is exactly
    `count` times its share, and any number of draws costs one cumulative sum.
    """
    total = jnp.cumsum(weights)
    strata = jnp.arange(count, dtype=weights.dtype) + jr.uniform(
        key, (count,), weights.dtype
    )
    found = jnp.searchsorted(total, strata / count * total[-1], side="right")
    # The product may round up to the total.
    last = jnp.max(jnp.where(weights > 0, jnp.arange(weights.size), 0))
    return jnp.minimum(found, last).astype(jnp.int32)


def check_share(name: str, **values: float | int) -> None:
    """Raises a `ValueError` for a number that is not between 0 and 1."""
    for field, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(
                f"`{name}.{field}` is between 0 and 1. Received {field}={value}."
            )
