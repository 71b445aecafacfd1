"""State of the decode loop, carried from token to token."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from .cache import SlotCache


class Until(NamedTuple):
    """When a rollout pauses before all of its rows are over.

    **Fields:**

    - `tokens`: after so many more tokens in each slot.
    - `groups`: as soon as so many groups are complete, or a few more if they end with
        the same token. On a mesh each shard has its equal part of them.
    """

    tokens: Int[ArrayLike, ""] | None = None
    groups: Int[ArrayLike, ""] | None = None


class Completions(eqx.Module):
    """Decoded tokens of every row so far.

    **Fields:**

    - `tokens`, `sampled`, `log_prob`, `version`, `terminated`, `rewards`: as in
        `Trajectory`, one row for each completion.
    - `env_state`: the state of each row's conversation.
    """

    tokens: Int[Array, "row time"]
    sampled: Bool[Array, "row time"]
    log_prob: Float[Array, "row time"]
    version: Int[Array, "row time"]
    terminated: Bool[Array, " row"]
    rewards: dict[str, Float[Array, " row"]]
    env_state: PyTree

    @staticmethod
    def empty(rows: int, time: int, rewards: PyTree, states: PyTree) -> "Completions":
        """Of rows without tokens.

        **Arguments:**

        - `rewards`: of one row by name, as shapes.
        - `states`: of all conversations at the beginning.
        """
        return Completions(
            tokens=jnp.zeros((rows, time), jnp.int32),
            sampled=jnp.zeros((rows, time), bool),
            log_prob=jnp.zeros((rows, time), jnp.float32),
            version=jnp.full((rows, time), -1, jnp.int32),
            terminated=jnp.zeros(rows, bool),
            rewards={name: jnp.zeros(rows, x.dtype) for name, x in rewards.items()},
            env_state=states,
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


class DecodeState(eqx.Module):
    """Carry of the decode loop.

    **Fields:**

    - `iteration`: tokens read in every slot so far.
    - `next_row`: the first row that no slot has taken yet.
    - `slots`, `completions`: progress and results.
    - `cache`: keys and values of the slots' completions.
    - `prompt_cache`: each slot's copy of its prompt's first columns; `None` without
        refills, where a group reads those of its prompt in place.
    """

    iteration: Int[Array, ""]
    next_row: Int[Array, ""]
    slots: DecodeSlots
    cache: SlotCache
    prompt_cache: PyTree | None
    completions: Completions

    def complete_groups(self, group: int) -> Bool[Array, " prompt"]:
        """Prompts of which every row is over.

        **Arguments:**

        - `group`: rows of a prompt.
        """
        rows = self.completions.terminated.shape[0]
        over = jnp.arange(rows, dtype=jnp.int32) < self.next_row
        over = over.at[self.slots.row].set(False, mode="drop")
        return jnp.all(over.reshape(-1, group), axis=1)

    def at_version(self, version: Int[Array, ""]) -> "DecodeState":
        """With a version for the sampled tokens that have none yet."""
        rows = self.completions
        is_new = rows.sampled & (rows.version < 0)
        versions = jnp.where(is_new, version, rows.version)
        rows = dataclasses.replace(rows, version=versions)
        return dataclasses.replace(self, completions=rows)
