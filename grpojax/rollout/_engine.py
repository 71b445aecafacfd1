"""The decode engine: continuous batching inside one compiled loop.

Rows (a prompt's `group` samples, prompt after prompt) are decoded in slots. A slot
whose row has ended takes the next row; its prompt's keys and values exist already and
are copied in. All slots write their newest keys and values to one shared column
(`SlotCache`), and a slot sees the columns that are younger than its row.

A row's randomness is its own, `fold_in(row key, time)`, and a row's result does not
depend on its neighbors: the tokens are the same for every number of slots.
"""

import dataclasses
import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ..env import AbstractEnvironment, Turn
from ..policy import AbstractPolicy, mask_vocabulary
from ..sharding import spmd
from ..types import Prompt
from ._blocks import block_columns
from ._prefill import PromptCache
from ._sample import AbstractSampler
from ._slot_cache import SlotCache, SlotColumns
from ._state import Completions, DecodeSlots, DecodeState
from ._turns import answer_turns, step_shape, turn_ends


# The constraints inside a policy hold for the axis of slots, too: it is replicated.
_map = ft.partial(jax.vmap, spmd_axis_name=())


class Engine(eqx.Module):
    """Continuous-batching decoder of one rollout; `run` decodes all of its rows.

    **Fields:**

    - `policy`: laid out for decoding.
    - `env`: answers each turn.
    - `states`, `prompts`: results of `env.reset`, stacked over prompts.
    - `keys`: one key a row; a token's randomness is `fold_in(row key, time)`.
    - `context`: the prompts' caches.
    - `sampler`: draws the tokens.
    - `max_lengths`: each row's own horizon in tokens.
    - `num_slots`: how many rows are decoded at a time.
    - `cache_tokens`: as in `RolloutConfig`, of this shard.
    """

    policy: AbstractPolicy
    env: AbstractEnvironment
    states: PyTree
    prompts: Prompt
    keys: Key[Array, "prompt group"]
    context: PromptCache
    sampler: AbstractSampler
    max_lengths: Int[Array, "prompt group"]
    num_slots: int = eqx.field(static=True)
    cache_tokens: int | None = eqx.field(static=True, default=None)

    @property
    def time(self) -> int:
        return self.env.max_completion_length

    @property
    def group(self) -> int:
        return self.keys.shape[1]

    @property
    def num_rows(self) -> int:
        return self.keys.size

    @property
    def refills(self) -> bool:
        """Whether slots take further rows; else a group shares its prompt's cache."""
        return self.num_slots < self.num_rows

    def run(self) -> tuple[Completions, Int[Array, ""]]:
        """Decodes every row until its conversation is over; also counts iterations."""
        state = self._start()
        decode = self._decode_block if state.cache.has_older else self._iterate
        state = jax.lax.while_loop(
            lambda state: self._is_decoding(state), lambda state: decode(state), state
        )
        completions = state.completions
        if self.env.max_turns == 1:
            # A single turn needs no reply: all rows are answered at once, at the end.
            length = jnp.sum(completions.sampled, axis=-1, dtype=jnp.int32)
            turns = Turn(completions.tokens, length, completions.terminated)
            _, step = jax.vmap(self.env.step)(completions.env_state, turns)
            completions = eqx.tree_at(lambda r: r.rewards, completions, step.rewards)
        return completions, state.iteration

    def _is_decoding(self, state: DecodeState) -> Bool[Array, ""]:
        return jnp.any(state.slots.row < self.num_rows)

    def _decode_block(self, state: DecodeState) -> DecodeState:
        """Decodes a block of tokens, into columns that become older ones here."""
        end = state.iteration + block_columns()
        slots = state.slots
        with jax.named_scope("pages"):
            cache, over = state.cache.move_block(
                self.policy, state.iteration, slots.row, self._age(slots)
            )
        if cache.may_run_out:
            state = self._start_again(state, over)
        state = eqx.tree_at(lambda x: x.cache, state, cache)
        return jax.lax.while_loop(
            lambda state: self._is_decoding(state) & (state.iteration < end),
            lambda state: self._iterate(state),
            state,
        )

    def _start(self) -> DecodeState:
        row = jnp.arange(self.num_slots, dtype=jnp.int32)
        zeros = lambda *shape: jnp.zeros(shape, jnp.int32)
        step = step_shape(self.env, self.states)
        states = jax.tree.map(lambda x: jnp.repeat(x, self.group, axis=0), self.states)
        completions = Completions.empty(self.num_rows, self.time, step.rewards, states)
        slots = DecodeSlots(
            row=row,
            age=zeros(self.num_slots),
            token=self._last_token(row),
            turn=zeros(self.num_slots),
            turn_start=zeros(self.num_slots),
            reply_start=zeros(self.num_slots),
            reply=zeros(self.num_slots, step.reply.shape[0]),
            stop=zeros(self.num_slots),
        )
        prompt = self._prompt(row)
        prompt_cache = jax.tree.map(lambda x: x[:, prompt], self.context.first)
        return DecodeState(
            iteration=jnp.zeros((), jnp.int32),
            next_row=jnp.array(self.num_slots, jnp.int32),
            slots=slots,
            cache=SlotCache.empty(
                self.policy,
                self.num_slots,
                SlotColumns.of(self.time, self.num_slots, self.cache_tokens),
            ),
            prompt_cache=prompt_cache if self.refills else None,
            completions=completions,
        )

    def _prompt(self, row: Int[Array, " slot"]) -> Int[Array, " slot"]:
        """The prompt of each row; the last one's for an idle slot."""
        return jnp.minimum(row, self.num_rows - 1) // self.group

    def _max_length(self, slots: DecodeSlots) -> Int[Array, " slot"]:
        return self.max_lengths.reshape(-1)[jnp.minimum(slots.row, self.num_rows - 1)]

    def _last_token(self, row: Int[Array, " slot"]) -> Int[Array, " slot"]:
        prompt = self._prompt(row)
        last = self.prompts.length[prompt] - 1
        return self.prompts.tokens[prompt, last].astype(jnp.int32)

    def _age(self, slots: DecodeSlots) -> Int[Array, " slot"]:
        """Tokens of each slot's row so far; 0 for an idle slot."""
        return jnp.where(slots.row < self.num_rows, slots.age, 0)

    def _start_again(self, state: DecodeState, chosen: Bool[Array, " slot"]):
        """Takes back all tokens of the rows in the chosen slots."""
        row = state.slots.row
        slots = state.slots.begin(chosen, row, self._last_token(row))
        states = jax.tree.map(lambda x: x[self._prompt(row)], self.states)
        row = jnp.where(chosen, row, self.num_rows)
        cleared = state.completions.clear(row, states)
        return eqx.tree_at(lambda x: (x.slots, x.completions), state, (slots, cleared))

    def _iterate(self, state: DecodeState) -> DecodeState:
        # Under tensor parallelism slots and completions are replicated: only caches
        # are sharded, too.
        pin = lambda state: eqx.tree_at(
            lambda x: (x.slots, x.completions), state, replace_fn=spmd.replicate
        )
        return pin(self._decode_token(pin(state)))

    def _decode_token(self, state: DecodeState) -> DecodeState:
        hidden, written = self._extend(state)
        slots, completions, turn_over, ended = self._sample(
            state.slots, state.completions, hidden
        )
        # Written after all layers have read theirs, and XLA's CPU backend must see it:
        # otherwise it copies a cache that is read and written. Tokens depend on all
        # layers, and are never negative.
        iteration = jnp.where(jnp.all(slots.token >= 0), state.iteration, 0)
        cache = state.cache.write(self.policy, written, iteration)
        if self.env.max_turns == 1:
            terminated = completions.terminated.at[slots.row].max(ended, mode="drop")
            completions = eqx.tree_at(lambda r: r.terminated, completions, terminated)
            row_over = turn_over
        else:
            slots, completions, row_over = answer_turns(
                self.env, slots, completions, turn_over, ended
            )
            row_over = row_over | (slots.age >= self._max_length(slots))
        slots, next_row, prompt_cache = self._refill(slots, row_over, state)
        return DecodeState(
            state.iteration + 1, next_row, slots, cache, prompt_cache, completions
        )

    def _extend(self, state: DecodeState) -> tuple[Float[Array, "slot hidden"], PyTree]:
        """Reads one token in every slot; also returns the cache entry of each."""
        slots = state.slots
        seen = state.cache.seen(state.iteration, self._age(slots))
        before = self.prompts.length[self._prompt(slots.row)].astype(jnp.int32) - 1

        def one(slot, recent, first, prompt):
            token, age, before, *own = slot
            past = self.context.past(first, prompt, before)
            past += state.cache.past(self.policy, recent, *own)
            position = (before + age)[None]
            hidden, cache = self.policy.extend(token[None], position, *past)
            return hidden[0], cache

        # Replicated, so that everything derived from them is: no layer communicates.
        pages = state.cache.pages
        slot = spmd.replicate((slots.token, slots.age, before, seen, pages))
        if self.refills:
            every = _map(one, in_axes=(0, 1, 1, 0), out_axes=(0, 1))
            caches = state.cache.recent, state.prompt_cache
            hidden, written = every(slot, *caches, self._prompt(slots.row))
        else:
            members = _map(one, in_axes=(0, 1, None, None), out_axes=(0, 1))
            every = _map(members, in_axes=(0, 1, 1, 0), out_axes=(0, 1))
            recent = self._by_prompt(1, state.cache.recent)
            number = jnp.arange(self.keys.shape[0], dtype=jnp.int32)
            hidden, written = every(
                self._by_prompt(0, slot), recent, self.context.first, number
            )
            hidden, written = self._by_slot(0, hidden), self._by_slot(1, written)
        return hidden, written

    def _by_prompt(self, axis: int, tree: PyTree) -> PyTree:
        """Splits the axis of slots into prompts and their groups."""
        shape = self.keys.shape
        split = lambda x: x.reshape(*x.shape[:axis], *shape, *x.shape[axis + 1 :])
        return jax.tree.map(split, tree)

    def _by_slot(self, axis: int, tree: PyTree) -> PyTree:
        """The inverse of `_by_prompt`."""
        count = (self.num_rows,)
        merge = lambda x: x.reshape(x.shape[:axis] + count + x.shape[axis + 2 :])
        return jax.tree.map(merge, tree)

    def _sample(
        self,
        slots: DecodeSlots,
        completions: Completions,
        hidden: Float[Array, "slot hidden"],
    ) -> tuple[DecodeSlots, Completions, Bool[Array, " slot"], Bool[Array, " slot"]]:
        """Records each slot's next token; which turns are over, and which ended."""
        slot = jnp.arange(self.num_slots)
        key = self.keys.reshape(-1)[jnp.minimum(slots.row, self.num_rows - 1)]
        key = jax.vmap(jr.fold_in)(key, slots.age)
        draw = lambda logits, key: self.sampler(logits, key=key)
        logits = spmd.shard_rows(self.policy.logits(spmd.replicate(hidden)))
        logits = mask_vocabulary(logits, self.env.vocab_size)
        token, log_prob = spmd.replicate(jax.vmap(draw)(logits, key))
        token = token.astype(jnp.int32)
        forced = slots.age < slots.turn_start
        if slots.reply.shape[1] > 0:
            reply = slots.reply[slot, slots.age - slots.reply_start]
            token = jnp.where(forced, reply, token)
        place = (slots.row, slots.age)  # Idle slots are out of bounds: dropped.
        log_prob = jnp.where(forced, 0, log_prob)
        completions = dataclasses.replace(
            completions,
            tokens=completions.tokens.at[place].set(token, mode="drop"),
            sampled=completions.sampled.at[place].set(~forced, mode="drop"),
            log_prob=completions.log_prob.at[place].set(log_prob, mode="drop"),
        )
        age = slots.age + 1
        ended, stop = turn_ends(self.env, slots, completions, token, forced)
        turn_over = ~forced & (ended | (age >= self._max_length(slots)))
        slots = dataclasses.replace(slots, age=age, token=token, stop=stop)
        return slots, completions, turn_over, ended

    def _refill(
        self, slots: DecodeSlots, row_over: Bool[Array, " slot"], state: DecodeState
    ) -> tuple[DecodeSlots, Int[Array, ""], PyTree | None]:
        """Hands the next rows to the slots whose row is over."""
        if not self.refills:
            row = jnp.where(row_over, self.num_rows, slots.row)
            slots = eqx.tree_at(lambda x: x.row, slots, row)
            return slots, state.next_row, None
        rank = jnp.cumsum(row_over, dtype=jnp.int32) - 1
        row = jnp.minimum(state.next_row + rank, self.num_rows)
        row = jnp.where(row_over, row, slots.row)
        next_row = jnp.minimum(state.next_row + rank[-1] + 1, self.num_rows)
        slots = slots.begin(row_over, row, self._last_token(row))
        chosen = row_over & (row < self.num_rows)
        caches = self.context.copy(state.prompt_cache, chosen, self._prompt(row))
        return slots, next_row, caches
