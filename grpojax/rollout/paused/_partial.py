"""Partial rollouts: rows that are not over go on in the next step."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from ...env import AbstractEnvironment
from ...policy import AbstractPolicy
from ...types import Prompt, Trajectory
from .._engine import Engine
from .._plan import Plan
from .._state import Completions, DecodeSlots, DecodeState, Until
from .._turns import answer_at_the_end, step_shape
from ..cache import block_columns, pad_prompts
from ._refresh import refresh


class Drawn(eqx.Module):
    """Prompts that were drawn, with the keys of their rows.

    **Fields:**

    - `states`, `prompts`: results of `env.reset` or `env.problem`, stacked.
    - `problems`: their numbers; `None` for an environment without numbered problems.
    - `keys`: of each row.
    """

    states: PyTree
    prompts: Prompt
    problems: Int[Array, " prompt"] | None
    keys: Key[Array, "prompt group"]


class PartialRows(eqx.Module):
    """Prompts with rows that are not over, and what those have sampled so far.

    It holds no keys and values: another policy's would have to be computed again.

    **Fields:**

    - `drawn`: the prompts.
    - `completions`: of their rows.
    - `started`, `over`: masks of the rows that have begun, and ended.
    - `slots`: as if each row had a slot.
    """

    drawn: Drawn
    completions: Completions
    started: Bool[Array, " row"]
    over: Bool[Array, " row"]
    slots: DecodeSlots

    @staticmethod
    def of(env: AbstractEnvironment, drawn: Drawn) -> "PartialRows":
        """Rows before their first tokens."""
        group, rows = drawn.keys.shape[1], drawn.keys.size
        states = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), drawn.states)
        step = step_shape(env, drawn.states)
        return PartialRows(
            drawn=drawn,
            completions=Completions.empty(rows, env, step.rewards, states),
            started=jnp.zeros(rows, bool),
            over=jnp.zeros(rows, bool),
            slots=DecodeSlots.empty(rows, step.reply.shape[0]),
        )

    def take(self, prompts: Int[Array, " taken"]) -> "PartialRows":
        """Those of the given prompts."""
        group = self.drawn.keys.shape[1]
        rows = prompts[:, None] * group + jnp.arange(group, dtype=prompts.dtype)
        drawn, *rest = _fields(self)
        taken = jax.tree.map(lambda x: x[prompts], drawn)
        return PartialRows(taken, *jax.tree.map(lambda x: x[rows.reshape(-1)], rest))

    def resume(self, engine: Engine) -> DecodeState:
        """The decode loop's state: rows that have begun, and then others, in slots."""
        rows, slots = self.over.shape[0], engine.plan.slots
        going = self.started & ~self.over
        first = jnp.sum(self.started, dtype=jnp.int32)
        if engine.refills:
            order = jnp.argsort(jnp.where(going, 0, jnp.where(self.over, 2, 1)))
            row = order[:slots].astype(jnp.int32)
            row = jnp.where(self.over[row], rows, row)
        else:
            row = jnp.where(self.over, rows, jnp.arange(rows, dtype=jnp.int32))
        held = jnp.minimum(row, rows - 1)
        began = going[held] & (row < rows)
        new = engine.start()
        fresh = new.slots.begin(jnp.ones_like(began), row, engine.last_token(row))
        mine = jax.tree.map(lambda x: x[held], self.slots)
        pick = lambda x, y: jnp.where(began.reshape(-1, *(1,) * (x.ndim - 1)), x, y)
        slots_now = jax.tree.map(pick, mine, fresh)
        slots_now = dataclasses.replace(slots_now, row=row)
        columns = new.cache.columns
        # Columns of older tokens are counted back from here.
        time = self.completions.tokens.shape[1]
        width = block_columns() if columns.older else columns.recent
        pages = jnp.arange(new.cache.pages.size, dtype=jnp.int32)
        state = dataclasses.replace(
            new,
            iteration=jnp.array(-(-time // width) * width, jnp.int32),
            next_row=first + jnp.sum((row < rows) & ~began, dtype=jnp.int32),
            slots=slots_now,
            cache=eqx.tree_at(
                lambda x: x.pages, new.cache, pages.reshape(new.cache.pages.shape)
            ),
            completions=self.completions,
        )
        return refresh(engine, state)


def complete_partial(
    policy: AbstractPolicy,
    plan: Plan,
    partial: PartialRows,
    drawn: Drawn,
    version: Int[Array, ""],
) -> tuple[Trajectory, PartialRows, Int[Array, ""]]:
    """Decodes until as many prompts are complete as were drawn.

    **Arguments:**

    - `policy`: samples the tokens.
    - `plan`: of the prompts that were drawn; its slots are those of all rows.
    - `partial`: rows of the steps before.
    - `drawn`: the prompts that were drawn for this step.
    - `version`: of the policy.

    **Returns:** the trajectory of the complete prompts, the rows that are left, and the
    largest number of iterations of a shard.
    """

    def decode(plan: Plan, replicated: PyTree, partial: PartialRows, drawn: Drawn):
        policy, version = replicated
        ask = drawn.keys.shape[0]
        every = _concatenate(partial, PartialRows.of(plan.env, drawn))
        prompts = pad_prompts(every.drawn.prompts)
        plan = plan.of_prompts(every.drawn.states, prompts, every.drawn.keys)
        engine = Engine.of(policy, plan)
        start = every.resume(engine)
        state = engine.advance(start, Until(groups=jnp.array(ask)))
        state = state.at_version(version)
        complete = state.complete_groups(engine.group)
        # Those that were drawn first.
        order = jnp.argsort(~complete, stable=True)
        now = _progress(every.drawn, state)
        trained, left = now.take(order[:ask]), now.take(jnp.sort(order[ask:]))
        rows = answer_at_the_end(plan.env, trained.completions)
        iterations = (state.iteration - start.iteration)[None]
        return trained.drawn, rows, left, iterations

    found = plan.run(decode, (plan.laid_out(policy), version), partial, drawn)
    trained, rows, left, iterations = found
    of = plan.of_prompts(trained.states, trained.prompts, trained.keys)
    trajectory = dataclasses.replace(of.trajectory(rows), problems=trained.problems)
    return trajectory, left, jnp.max(iterations)


def _progress(drawn: Drawn, state: DecodeState) -> PartialRows:
    """What the decode loop's state says of every row."""
    rows = state.completions.terminated.shape[0]
    started = jnp.arange(rows, dtype=jnp.int32) < state.next_row
    over = started.at[state.slots.row].set(False, mode="drop")
    put = lambda x: (
        jnp.zeros((rows, *x.shape[1:]), x.dtype).at[state.slots.row].set(x, mode="drop")
    )
    slots = jax.tree.map(put, state.slots)
    return PartialRows(drawn, state.completions, started, over, slots)


def _fields(rows: PartialRows) -> list[Any]:
    return [getattr(rows, field.name) for field in dataclasses.fields(rows)]


def _concatenate(first: PyTree, second: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), first, second)
