"""What a rollout decodes, and where."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Int, Key, PyTree

from ..env import AbstractDatasetEnvironment, AbstractEnvironment
from ..policy import AbstractPolicy
from ..sharding import spmd
from ..types import Prompt, Trajectory
from ._config import check_sampler, check_shards, check_sizes
from ._row_sampler import RowSampler
from ._sample import AbstractSampler
from ._state import Completions
from .cache import pad_prompts


class Plan(eqx.Module):
    """The rows of a rollout, and how many are decoded at a time.

    **Fields:**

    - `env`, `sampler`: as in `complete`.
    - `states`, `prompts`: results of `env.reset`, stacked over prompts.
    - `keys`: a key for each row, by its global index.
    - `limits`: maximum length of each row, tokens.
    - `slots`, `cache_tokens`: of each shard.
    """

    env: AbstractEnvironment
    sampler: AbstractSampler
    states: PyTree
    prompts: Prompt
    keys: Key[Array, "prompt group"]
    limits: Int[Array, "prompt group"]
    slots: int = eqx.field(static=True)
    cache_tokens: int | None = eqx.field(static=True)

    @staticmethod
    def of(
        policy: AbstractPolicy,
        env: AbstractEnvironment,
        states: PyTree,
        prompts: Prompt,
        *,
        group: int,
        slots: int | None,
        cache_tokens: int | None,
        limits: Int[ArrayLike, "prompt group"] | None,
        sampler: AbstractSampler,
        first: Int[ArrayLike, ""],
        key: Key[Array, ""],
    ) -> "Plan":
        """The plan of a rollout, whose arguments are checked; see `complete`."""
        check_sizes(group=group, slots=slots, cache_tokens=cache_tokens)
        check_sampler(sampler)
        _check_vocabulary(policy, env)
        if env.pauses and cache_tokens is not None:
            raise ValueError(
                "rollout: rows that wait for the host cannot start again, so their "
                "slots need room for a whole horizon. Received cache_tokens="
                f"{cache_tokens}: leave it out, or lower `slots`."
            )
        count = prompts.length.shape[0]
        check_shards(count, slots)
        num_slots = count * group if slots is None else min(slots, count * group)
        return Plan(
            env=env,
            sampler=sampler,
            states=states,
            prompts=prompts,
            keys=row_keys(key, (count, group), first),
            limits=_limits(env, states, (count, group), limits),
            slots=num_slots // spmd.shards(),
            cache_tokens=cache_tokens and cache_tokens // spmd.shards(),
        )

    def of_prompts(
        self, states: PyTree, prompts: Prompt, keys: Key[Array, "prompt group"]
    ) -> "Plan":
        """A plan of other prompts, without limits of their own."""
        return Plan(
            env=self.env,
            sampler=self.sampler,
            states=states,
            prompts=prompts,
            keys=keys,
            limits=_limits(self.env, states, keys.shape, None),
            slots=self.slots,
            cache_tokens=self.cache_tokens,
        )

    def laid_out(self, policy: AbstractPolicy) -> AbstractPolicy:
        """The policy in the decoding layout, once for all tokens."""
        return policy.for_decoding(self.slots)

    def run(self, function: Callable[..., PyTree], replicated: PyTree, *more: PyTree):
        """`function(plan, replicated, *more)` in each shard, with the plan of its rows.

        **Arguments:**

        - `function`: returns arrays with the batch in front.
        - `replicated`: passed unchanged to every shard.
        - `more`: arrays with the batch in front.
        """
        each = isinstance(self.sampler, RowSampler)

        def where(plan: Plan) -> tuple[PyTree, ...]:
            own = plan.states, plan.prompts, plan.keys, plan.limits
            return (*own, plan.sampler) if each else own

        padded = dataclasses.replace(self, prompts=pad_prompts(self.prompts))
        rows = where(padded)
        rest = eqx.tree_at(where, self, (None,) * len(rows))

        def shard(arguments, *arrays: PyTree) -> PyTree:
            rest, replicated = arguments
            own, more = arrays[: len(rows)], arrays[len(rows) :]
            plan = eqx.tree_at(where, rest, own, is_leaf=lambda x: x is None)
            return function(plan, replicated, *more)

        return spmd.shard_map_batch(shard, (rest, replicated), *rows, *more)

    def trajectory(self, rows: Completions) -> Trajectory:
        """Of all rows, which `run` has returned."""
        if isinstance(self.sampler, RowSampler):
            raise ValueError(
                "rollout: the rows of a trajectory are sampled at one temperature. "
                "Received a `RowSampler`, which has one for each row: read the rows "
                "with `rollout.progress` instead."
            )
        shape, env = self.keys.shape, self.env
        rows = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), rows)
        return Trajectory(
            prompt=self.prompts,
            tokens=rows.tokens,
            sampled=rows.sampled,
            log_prob=rows.log_prob,
            version=rows.version,
            terminated=rows.terminated,
            rewards=rows.rewards,
            temperature=jnp.asarray(self.sampler.temperature, jnp.float32),
            states=self.states,
            vocab_size=env.vocab_size,
            rows=env.rows if isinstance(env, AbstractDatasetEnvironment) else None,
            turns=rows.turns,
        )


def _limits(
    env: AbstractEnvironment,
    states: PyTree,
    shape: tuple[int, ...],
    limits: Int[ArrayLike, "prompt group"] | None,
) -> Int[Array, "prompt group"]:
    """The maximum length of each row, within the horizon."""
    time = env.max_completion_length
    if limits is None:
        limits = jnp.full(shape, time)
    limits = jnp.clip(jnp.asarray(limits, jnp.int32), 1, time)
    return jnp.minimum(limits, jax.vmap(env.horizon)(states)[:, None])


def row_keys(
    key: Key[Array, ""], shape: tuple[int, int], first: Int[ArrayLike, ""]
) -> Key[Array, "prompt group"]:
    """A key for each row, by its global index."""
    count, group = shape
    row = jnp.arange(count * group, dtype=jnp.uint32).reshape(shape)
    row = row + jnp.asarray(first).astype(jnp.uint32) * group
    return jax.vmap(jax.vmap(lambda row: jr.fold_in(key, row)))(row)


def _check_vocabulary(policy: AbstractPolicy, env: AbstractEnvironment):
    if env.vocab_size > policy.vocab_size:
        raise ValueError(
            "The environment's tokens must be below the policy's vocabulary size. "
            f"Received env.vocab_size={env.vocab_size} and policy.vocab_size="
            f"{policy.vocab_size}. Use the tokenizer that belongs to the model."
        )
