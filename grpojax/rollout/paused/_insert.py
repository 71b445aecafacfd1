"""New prompts in a rollout under way, as a server has them."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, PyTree

from ...policy import AbstractPolicy
from ...types import Prompt
from .._engine import Engine
from .._plan import Plan
from .._row_sampler import RowSampler
from .._state import DecodeState
from ..cache import pad_prompts, PromptCache
from ._pause import in_front, Rollout


def insert(
    rollout: Rollout,
    policy: AbstractPolicy,
    rows: Int[Array, " new"],
    states: PyTree,
    prompts: Prompt,
    *,
    limits: Int[ArrayLike, " new"] | None = None,
    sampler: RowSampler | None = None,
    key: Key[Array, " new"],
) -> Rollout:
    """The rollout with new prompts in some of its rows, which begin again.

    What those rows had sampled is forgotten, and no other row changes. Between two
    calls of `advance` a server reads the rows that are over, and inserts waiting
    prompts in their places: continuous batching.

    **Arguments:**

    - `rollout`: under way, with a group of 1 and as many slots as rows.
    - `policy`: of the version of the rollout, which the prompts are prefilled with.
    - `rows`: distinct places of the prompts; one that is out of bounds is left out.
    - `states`, `prompts`: as in `complete`, in buffers as wide as the rollout's.
    - `limits`: maximum length of each completion, tokens; those of the rows before when
        `None`.
    - `sampler`: the numbers of each new row, if the rollout has a `RowSampler`.
    - `key`: of each row. Row `i` of `complete` has `fold_in(key, i)`.

    **Returns:** the rollout.

    **Raises:** `ValueError` for a rollout with groups, or fewer slots than rows, or an
    environment that pauses, or another width of prompts.

    !!! example

        ```python
        row = jnp.array([3])
        key = jax.random.fold_in(jax.random.key(0), 0)[None]
        paused = rollout.insert(paused, policy, row, states, prompts, key=key)
        paused = rollout.advance(paused, policy, rollout.Until(tokens=16))
        ```
    """
    plan = rollout.plan
    _check(rollout, prompts)
    put = lambda old, new: old.at[rows].set(new, mode="drop")
    most = plan.env.max_completion_length
    changed = dataclasses.replace(
        plan,
        states=jax.tree.map(put, plan.states, states),
        prompts=jax.tree.map(put, plan.prompts, prompts),
        keys=put(plan.keys, key[:, None]),
    )
    if limits is not None:
        horizon = jax.vmap(plan.env.horizon)(states)
        limits = jnp.clip(jnp.asarray(limits, jnp.int32), 1, most)
        limits = put(plan.limits, jnp.minimum(limits, horizon)[:, None])
        changed = dataclasses.replace(changed, limits=limits)
    if sampler is not None:
        sampler = jax.tree.map(put, plan.sampler, sampler)
        changed = dataclasses.replace(changed, sampler=sampler)

    def begin(plan: Plan, replicated: PyTree, paused: PyTree, numbers) -> PyTree:
        policy, rows, prompts = replicated
        context, state = jax.tree.map(lambda x: x[0], paused)
        # Rows are numbered over all shards, and each has its own.
        own = rows[:, None] == numbers
        place = jnp.argmax(own, axis=1).astype(jnp.int32)
        place = jnp.where(own.any(1), place, numbers.size)
        with jax.named_scope("prefill"):
            new = PromptCache.of(policy, pad_prompts(prompts))
        context, chosen = context.insert(new, place), own.any(0)
        row = jnp.arange(numbers.size, dtype=jnp.int32)
        row = jnp.where(chosen, row, state.slots.row)
        state = eqx.tree_at(lambda x: x.slots.row, state, row)
        state = Engine(policy, plan, context).start_again(state, chosen)
        return in_front((context, state))

    numbers = jnp.arange(plan.keys.shape[0], dtype=rows.dtype)
    replicated = plan.laid_out(policy), rows, prompts
    shards = changed.run(begin, replicated, rollout.shards, numbers)
    return Rollout(changed, rollout.version, shards)


def release(rollout: Rollout, rows: Bool[Array, " row"]) -> Rollout:
    """The rollout in which some rows are over as they are; their slots are idle.

    **Arguments:**

    - `rollout`: under way, with as many slots as rows.
    - `rows`: a mask of those that end.

    **Returns:** the rollout; the rows keep their tokens, and are not terminated.

    **Raises:** `ValueError` for a rollout with groups, or fewer slots than rows.

    !!! example

        ```python
        paused = rollout.release(paused, jnp.arange(8) == 3)
        ```
    """
    _check(rollout)

    def end(plan: Plan, _, state: DecodeState, rows: Bool[Array, " row"]) -> PyTree:
        row = jnp.where(rows, plan.keys.size, state.slots.row[0])
        return eqx.tree_at(lambda x: x.slots.row, state, row[None])

    context, state = rollout.shards
    state = rollout.plan.run(end, None, state, rows)
    return dataclasses.replace(rollout, shards=(context, state))


class Progress(NamedTuple):
    """What the rows of a rollout have sampled so far.

    **Fields:**

    - `active`: a mask of the rows that a slot decodes.
    - `length`: tokens of each row.
    - `tokens`, `log_prob`, `version`, `terminated`: as in `Trajectory`, row by row.
    """

    active: Bool[Array, " row"]
    length: Int[Array, " row"]
    tokens: Int[Array, "row time"]
    log_prob: Float[Array, "row time"]
    version: Int[Array, "row time"]
    terminated: Bool[Array, " row"]


def progress(rollout: Rollout) -> Progress:
    """The tokens of every row so far, whether it is over or not.

    **Arguments:**

    - `rollout`: under way, with a group of 1 and as many slots as rows.

    **Returns:** the progress of its rows.

    **Raises:** `ValueError` for a rollout with groups, or fewer slots than rows.

    !!! example

        ```python
        now = jax.device_get(rollout.progress(paused))
        texts = [tokenizer.decode(x[:n]) for x, n in zip(now.tokens, now.length)]
        ```
    """
    _check(rollout)
    state: DecodeState = rollout.shards[1]
    rows = state.completions
    shards, count = rows.terminated.shape
    flat = lambda x: x.reshape(shards * count, *x.shape[2:])
    # Tokens of replies have no version.
    written = jnp.max(
        jnp.where(rows.sampled, jnp.arange(1, rows.sampled.shape[2] + 1), 0), axis=2
    )
    return Progress(
        active=flat(state.slots.row < count),
        length=flat(written.astype(jnp.int32)),
        tokens=flat(rows.tokens),
        log_prob=flat(rows.log_prob),
        version=flat(rows.version),
        terminated=flat(rows.terminated),
    )


def _check(rollout: Rollout, prompts: Prompt | None = None):
    """Checks that row `i` is in slot `i`, and that prompts fit."""
    plan = rollout.plan
    rows, group = plan.keys.shape
    slots = rollout.shards[1].slots.row.size
    if group != 1 or slots != rows:
        raise ValueError(
            "rollout: a row that takes new prompts has a slot of its own. Received "
            f"group={group} and {slots} slots for {rows} rows: start the rollout with "
            "group=1 and slots=None."
        )
    if plan.env.pauses:
        raise ValueError(
            "rollout: a row that takes new prompts waits for no answer of the host. "
            f"Received {type(plan.env).__name__}, which pauses: use an environment "
            "that does not."
        )
    width = plan.prompts.tokens.shape[1]
    if prompts is not None and prompts.tokens.shape[1] != width:
        raise ValueError(
            f"rollout: new prompts are as wide as those before, {width} tokens. "
            f"Received {prompts.tokens.shape[1]}: pad them."
        )
