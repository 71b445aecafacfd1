"""State of the decode loop, carried from token to token."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from ..env import AbstractEnvironment
from ..types import TurnRewards
from .cache import SlotCache


class Until(NamedTuple):
    """When a rollout pauses before all of its rows are over.

    **Fields:**

    - `tokens`: after so many more tokens in each slot.
    - `groups`: as soon as so many groups are complete, or a few more if they end with
        the same token. On a mesh each shard has its equal part of them.
    - `waiting`: as soon as so many rows, in a shard, wait for an answer from the host;
        see `AbstractEnvironment.pauses`.
    """

    tokens: Int[ArrayLike, ""] | None = None
    groups: Int[ArrayLike, ""] | None = None
    waiting: Int[ArrayLike, ""] | None = None


class Completions(eqx.Module):
    """Decoded tokens of every row so far.

    **Fields:**

    - `tokens`, `sampled`, `log_prob`, `version`, `terminated`, `rewards`, `turns`: as
        in `Trajectory`, one row for each completion.
    - `env_state`: the state of each row's conversation.
    """

    tokens: Int[Array, "row time"]
    sampled: Bool[Array, "row time"]
    log_prob: Float[Array, "row time"]
    version: Int[Array, "row time"]
    terminated: Bool[Array, " row"]
    rewards: dict[str, Float[Array, " row"]]
    env_state: PyTree
    turns: TurnRewards | None = None

    @staticmethod
    def empty(
        rows: int, env: AbstractEnvironment, rewards: PyTree, states: PyTree
    ) -> "Completions":
        """Of rows without tokens.

        **Arguments:**

        - `env`: its horizon, and the most turns.
        - `rewards`: of one row by name, as shapes.
        - `states`: of all conversations at the beginning.
        """
        time, turns = env.max_completion_length, env.max_turns
        zeros = lambda *shape: {
            name: jnp.zeros(shape, x.dtype) for name, x in rewards.items()
        }
        by_turn = TurnRewards(jnp.zeros((rows, turns), jnp.int32), zeros(rows, turns))
        return Completions(
            tokens=jnp.zeros((rows, time), jnp.int32),
            sampled=jnp.zeros((rows, time), bool),
            log_prob=jnp.zeros((rows, time), jnp.float32),
            version=jnp.full((rows, time), -1, jnp.int32),
            terminated=jnp.zeros(rows, bool),
            rewards=zeros(rows),
            env_state=states,
            # Turns that pause are paid outside of the loop, in one sum.
            turns=by_turn if turns > 1 and not env.pauses else None,
        )

    def clear(self, row: Int[Array, " slot"], states: PyTree) -> "Completions":
        """Without the tokens of some rows; those that are out of bounds are skipped.

        **Arguments:**

        - `states`: of their conversations at the beginning.
        """
        put = lambda x, value=0: x.at[row].set(value, mode="drop")
        return Completions(
            tokens=put(self.tokens),
            sampled=put(self.sampled, False),
            log_prob=put(self.log_prob),
            version=put(self.version, -1),
            terminated=put(self.terminated, False),
            rewards=jax.tree.map(put, self.rewards),
            env_state=jax.tree.map(put, self.env_state, states),
            turns=jax.tree.map(put, self.turns),
        )


class DecodeSlots(eqx.Module):
    """Progress of the row that each slot decodes.

    **Fields:**

    - `row`: which row; the number of rows, which is out of bounds, for an idle slot.
    - `age`: the row's completion tokens so far, sampled or forced.
    - `token`: the next token to read.
    - `turn`: how many turns are over.
    - `turn_start`: where the current turn begins, completion position.
    - `reply_start`: where the last reply begins: positions from there to `turn_start`
        are forced to `reply`.
    - `reply`: the environment's last reply.
    - `stop`: the state of the environment's stop string, in the current turn.
    """

    row: Int[Array, " slot"]
    age: Int[Array, " slot"]
    token: Int[Array, " slot"]
    turn: Int[Array, " slot"]
    turn_start: Int[Array, " slot"]
    reply_start: Int[Array, " slot"]
    reply: Int[Array, "slot reply"]
    stop: Int[Array, " slot"]

    @staticmethod
    def empty(slots: int, reply: int) -> "DecodeSlots":
        """Before any row has begun.

        **Arguments:**

        - `reply`: tokens of the longest reply.
        """
        zeros = jnp.zeros(slots, jnp.int32)
        longest = jnp.zeros((slots, reply), jnp.int32)
        return DecodeSlots(zeros, zeros, zeros, zeros, zeros, zeros, longest, zeros)

    def begin(
        self,
        chosen: Bool[Array, " slot"],
        row: Int[Array, " slot"],
        token: Int[Array, " slot"],
    ) -> "DecodeSlots":
        """The chosen slots at the beginning of their rows.

        **Arguments:**

        - `row`: of each slot from now on.
        - `token`: the first one that each row reads.
        """
        fresh = lambda x: jnp.where(chosen, 0, x)
        return DecodeSlots(
            row=row,
            age=fresh(self.age),
            token=jnp.where(chosen, token, self.token),
            turn=fresh(self.turn),
            turn_start=fresh(self.turn_start),
            reply_start=fresh(self.reply_start),
            reply=self.reply,
            stop=fresh(self.stop),
        )


class Waiting(eqx.Module):
    """Rows whose turn is over and that have no slot until they have been answered.

    **Fields:**

    - `order`: how many rows began to wait before it; -1 for a row that does not wait.
    - `count`: how many have ever begun to.
    - `age`: the row's tokens so far, from the answer on with the reply.
    - `turn`, `turn_start`: how many turns are over, and where the last one begins.
    - `ended`: whether the last token ends a turn; else the horizon truncated it.
    - `answered`: whether it has been, and may go on.
    """

    order: Int[Array, " row"]
    count: Int[Array, ""]
    age: Int[Array, " row"]
    turn: Int[Array, " row"]
    turn_start: Int[Array, " row"]
    ended: Bool[Array, " row"]
    answered: Bool[Array, " row"]

    @staticmethod
    def empty(rows: int) -> "Waiting":
        """Nobody waits."""
        zeros, never = jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool)
        return Waiting(zeros - 1, zeros[0], zeros, zeros, zeros, never, never)

    @property
    def asks(self) -> Bool[Array, " row"]:
        """Rows that wait for an answer."""
        return (self.order >= 0) & ~self.answered

    def add(
        self,
        slots: DecodeSlots,
        chosen: Bool[Array, " slot"],
        ended: Bool[Array, " slot"],
    ) -> "Waiting":
        """With the rows of the chosen slots."""
        rank = self.count + jnp.cumsum(chosen, dtype=jnp.int32) - 1
        place = jnp.where(chosen, slots.row, self.order.shape[0])
        put = lambda x, new: x.at[place].set(new, mode="drop")
        return Waiting(
            order=put(self.order, rank),
            count=rank[-1] + 1,
            age=put(self.age, slots.age),
            turn=put(self.turn, slots.turn + 1),
            turn_start=put(self.turn_start, slots.turn_start),
            ended=put(self.ended, ended),
            answered=self.answered,
        )


class DecodeState(eqx.Module):
    """Carry of the decode loop.

    **Fields:**

    - `iteration`: tokens read in every slot so far.
    - `next_row`: the first row that no slot has taken yet.
    - `slots`, `completions`: progress and results.
    - `cache`: keys and values of the slots' completions.
    - `prompt_cache`: each slot's copy of its prompt's first columns; `None` without
        refills, where a group reads those of its prompt in place.
    - `waiting`: rows that wait for the host; `None` if the environment is in the graph.
    """

    iteration: Int[Array, ""]
    next_row: Int[Array, ""]
    slots: DecodeSlots
    cache: SlotCache
    prompt_cache: PyTree | None
    completions: Completions
    waiting: Waiting | None = None

    def complete_groups(self, group: int) -> Bool[Array, " prompt"]:
        """Prompts of which every row is over.

        **Arguments:**

        - `group`: rows of a prompt.
        """
        rows = self.completions.terminated.shape[0]
        over = jnp.arange(rows, dtype=jnp.int32) < self.next_row
        over = over.at[self.slots.row].set(False, mode="drop")
        if self.waiting is not None:
            over &= self.waiting.order < 0
        return jnp.all(over.reshape(-1, group), axis=1)

    def at_version(self, version: Int[Array, ""]) -> "DecodeState":
        """With a version for the sampled tokens that have none yet."""
        rows = self.completions
        is_new = rows.sampled & (rows.version < 0)
        versions = jnp.where(is_new, version, rows.version)
        rows = dataclasses.replace(rows, version=versions)
        return dataclasses.replace(self, completions=rows)
