"""Environment steps inside the decode loop."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ..env import AbstractEnvironment, TimeStep, Turn
from ..types import TurnRewards
from ._state import Completions, DecodeSlots


def step_shape(env: AbstractEnvironment, states: PyTree) -> TimeStep:
    """Shapes and dtypes of what `env.step` returns.

    **Arguments:**

    - `env`: the environment.
    - `states`: its states, stacked over prompts.
    """
    state = jax.tree.map(lambda x: x[0], states)
    turn = Turn(
        jnp.zeros(env.max_completion_length, jnp.int32),
        jnp.zeros((), jnp.int32),
        jnp.array(False),
    )
    return jax.eval_shape(env.step, state, turn)[1]


def turn_ends(
    env: AbstractEnvironment,
    slots: DecodeSlots,
    completions: Completions,
    token: Int[Array, " slot"],
    forced: Bool[Array, " slot"],
) -> tuple[Bool[Array, " slot"], Int[Array, " slot"]]:
    """Which slots' turns a token ends, and the state of the stop string after it."""
    row = jnp.minimum(slots.row, completions.terminated.shape[0] - 1)
    states = jax.tree.map(lambda x: x[row], completions.env_state)
    ended = jax.vmap(env.ends_turn)(states, token)
    stop, found = jax.vmap(env.read_stop)(states, slots.stop, token)
    ended = ended | found
    # Tokens of a reply are in no turn: the next one is matched from its beginning.
    return ended & ~forced, jnp.where(forced | ended, 0, stop)


def answer_turns(
    env: AbstractEnvironment,
    slots: DecodeSlots,
    completions: Completions,
    turn_over: Bool[Array, " slot"],
    ended: Bool[Array, " slot"],
) -> tuple[DecodeSlots, Completions, Bool[Array, " slot"]]:
    """Steps the environment in every slot whose turn is over, if there is any.

    **Arguments:**

    - `env`: answers.
    - `slots`, `completions`: with the last token recorded.
    - `turn_over`: slots whose turn is over.
    - `ended`: slots whose last token is an end token.

    **Returns:** slots with their replies, completions with their rewards, and which
    slots' conversations are over.
    """
    num_rows, time = completions.tokens.shape

    def answer(slots: DecodeSlots, completions: Completions):
        row = jnp.minimum(slots.row, num_rows - 1)
        length = slots.age - slots.turn_start
        offset = jnp.arange(time)[None]
        tokens = jnp.take_along_axis(
            completions.tokens[row],
            jnp.minimum(slots.turn_start[:, None] + offset, time - 1),
            axis=1,
        )
        tokens = jnp.where(offset < length[:, None], tokens, 0)
        state = jax.tree.map(lambda x: x[row], completions.env_state)
        state, step = jax.vmap(env.step)(state, Turn(tokens, length, ended))
        last = step.done | (slots.turn + 1 >= env.max_turns)
        # Slots whose turn goes on, and idle slots, write nowhere.
        place = jnp.where(turn_over, slots.row, num_rows)
        completions = dataclasses.replace(
            completions,
            turns=_with_turn(completions.turns, step, place, slots),
            terminated=completions.terminated.at[place].set(ended & last, mode="drop"),
            rewards={
                name: total.at[place].add(step.rewards[name], mode="drop")
                for name, total in completions.rewards.items()
            },
            env_state=jax.tree.map(
                lambda all, new: all.at[place].set(new, mode="drop"),
                completions.env_state,
                state,
            ),
        )
        pick = lambda new, old: jnp.where(turn_over, new, old)
        slots = DecodeSlots(
            slots.row,
            slots.age,
            slots.token,
            pick(slots.turn + 1, slots.turn),
            pick(slots.age + step.reply_length, slots.turn_start),
            pick(slots.age, slots.reply_start),
            jnp.where(turn_over[:, None], step.reply, slots.reply),
            slots.stop,
        )
        return slots, completions, turn_over & last

    def unchanged(slots: DecodeSlots, completions: Completions):
        return slots, completions, jnp.zeros_like(turn_over)

    # One `cond` for all slots: batched by `vmap` it would run both branches.
    return jax.lax.cond(jnp.any(turn_over), answer, unchanged, slots, completions)


def _with_turn(
    turns: TurnRewards | None,
    step: TimeStep,
    row: Int[Array, " slot"],
    slots: DecodeSlots,
) -> TurnRewards | None:
    """Records the turns that are over, of the rows that are within bounds."""
    put = lambda all, new: all.at[row, slots.turn].set(new, mode="drop")
    return turns and TurnRewards(
        put(turns.ends, slots.age),
        {name: put(x, step.rewards[name]) for name, x in turns.rewards.items()},
    )


def answer_at_the_end(env: AbstractEnvironment, completions: Completions):
    """Completions with the rewards of an environment of a single turn.

    It needs no reply: all rows are answered at once, outside the decode loop. So are
    the last turns of one that pauses.
    """
    if env.max_turns > 1 and not env.pauses:
        return completions
    rows = completions.tokens, completions.sampled, completions.terminated
    turns = jax.vmap(last_turn)(*rows)
    _, step = jax.vmap(env.step)(completions.env_state, turns)
    return dataclasses.replace(completions, rewards=step.rewards)


def last_turn(
    tokens: Int[Array, " time"], sampled: Bool[Array, " time"], ended: Bool[Array, ""]
) -> Turn:
    """The last turn of a row: the tokens sampled after the last reply.

    **Arguments:**

    - `tokens`, `sampled`: of the row.
    - `ended`: whether its last token ends a turn.
    """
    place = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    total = jnp.max(jnp.where(sampled, place + 1, 0))
    start = jnp.max(jnp.where(~sampled & (place < total), place + 1, 0))
    turn = tokens.at[start + place].get(mode="fill", fill_value=0)
    length = total - start
    return Turn(jnp.where(place < length, turn, 0), length, ended)
