"""The decode engine: continuous batching inside one compiled loop.

Rows (a prompt's `group` samples, prompt after prompt) are decoded in slots. A slot
whose row has ended takes the next row; its prompt's keys and values exist already and
are copied in. All slots write their newest keys and values to one shared column
(`SlotCache`), and a slot sees the columns written since its row began.

A row's randomness is its own, `fold_in(row key, time)`, and a row's result does not
depend on its neighbors: the tokens are the same for every number of slots.
"""

import dataclasses
import functools as ft
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..policy import AbstractPolicy, mask_vocabulary
from ..sharding import spmd
from ._plan import Plan
from ._state import Completions, DecodeSlots, DecodeState, Until, Waiting
from ._turns import answer_turns, step_shape, turn_ends
from .cache import block_columns, PromptCache, Seen, SlotCache, SlotColumns


# The constraints inside a policy hold for the axis of slots, too: it is replicated.
_map = ft.partial(jax.vmap, spmd_axis_name=())


class Engine(eqx.Module):
    """Continuous-batching decoder of one rollout: `start`, then `advance`.

    **Fields:**

    - `policy`: laid out for decoding.
    - `plan`: of this shard.
    - `context`: the prompts' caches.
    """

    policy: AbstractPolicy
    plan: Plan
    context: PromptCache

    @staticmethod
    def of(policy: AbstractPolicy, plan: Plan) -> "Engine":
        """Prefills the prompts."""
        with jax.named_scope("prefill"):
            return Engine(policy, plan, PromptCache.of(policy, plan.prompts))

    @property
    def group(self) -> int:
        return self.plan.keys.shape[1]

    @property
    def num_rows(self) -> int:
        return self.plan.keys.size

    @property
    def refills(self) -> bool:
        """Whether slots take further rows; else a group shares its prompt's cache."""
        return self.plan.slots < self.num_rows

    def start(self) -> DecodeState:
        """Every row before its first token, the first ones in the slots."""
        plan, group = self.plan, self.group
        row = jnp.arange(plan.slots, dtype=jnp.int32)
        step = step_shape(plan.env, plan.states)
        slots = DecodeSlots.empty(plan.slots, step.reply.shape[0])
        slots = slots.begin(jnp.ones_like(row, bool), row, self.last_token(row))
        states = jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), plan.states)
        time = plan.env.max_completion_length
        columns = SlotColumns.of(time, plan.slots, plan.cache_tokens)
        return DecodeState(
            iteration=jnp.zeros((), jnp.int32),
            next_row=jnp.array(plan.slots, jnp.int32),
            slots=slots,
            cache=SlotCache.empty(self.policy, plan.slots, columns),
            prompt_cache=self.prompt_cache(slots),
            completions=Completions.empty(
                self.num_rows, plan.env, step.rewards, states
            ),
            waiting=Waiting.empty(self.num_rows) if plan.env.pauses else None,
        )

    def advance(self, state: DecodeState, until: Until = Until()) -> DecodeState:
        """Decodes until every conversation is over, or as `until` says."""
        stop = None if until.tokens is None else state.iteration + until.tokens

        def continues(state: DecodeState) -> Bool[Array, ""]:
            going = jnp.any(state.slots.row < self.num_rows)
            if stop is not None:
                going &= state.iteration < stop
            if until.groups is not None:
                complete = jnp.sum(state.complete_groups(self.group))
                going &= complete < until.groups
            if until.waiting is not None and state.waiting is not None:
                going &= jnp.sum(state.waiting.asks) < until.waiting
            return going

        if not state.cache.has_older:
            return jax.lax.while_loop(continues, lambda x: self._iterate(x), state)
        return jax.lax.while_loop(
            continues, lambda state: self._decode_block(state, continues), state
        )

    def _decode_block(
        self, state: DecodeState, continues: Callable[[DecodeState], Bool[Array, ""]]
    ) -> DecodeState:
        """Decodes to the end of a block, and then moves the oldest one to pages."""
        block = block_columns()
        end = state.iteration - state.iteration % block + block
        state = jax.lax.while_loop(
            lambda state: continues(state) & (state.iteration < end),
            lambda state: self._iterate(state),
            state,
        )
        slots = state.slots
        with jax.named_scope("pages"):
            cache, over = state.cache.move_block(
                self.policy, state.iteration, slots.row, self.age(slots)
            )
        if cache.may_run_out:
            state = self.start_again(state, over)
        return eqx.tree_at(lambda x: x.cache, state, cache)

    def prompt_cache(self, slots: DecodeSlots) -> PyTree | None:
        """Each slot's copy of its prompt's first columns; `None` without refills."""
        if not self.refills:
            return None
        prompt = self._prompt(slots.row)
        return jax.tree.map(lambda x: x[:, prompt], self.context.first)

    def _prompt(self, row: Int[Array, " slot"]) -> Int[Array, " slot"]:
        """The prompt of each row; the last one's for an idle slot."""
        return jnp.minimum(row, self.num_rows - 1) // self.group

    def _max_length(self, slots: DecodeSlots) -> Int[Array, " slot"]:
        return self.plan.limits.reshape(-1)[jnp.minimum(slots.row, self.num_rows - 1)]

    def last_token(self, row: Int[Array, " slot"]) -> Int[Array, " slot"]:
        prompt = self._prompt(row)
        last = self.plan.prompts.length[prompt] - 1
        return self.plan.prompts.tokens[prompt, last].astype(jnp.int32)

    def age(self, slots: DecodeSlots) -> Int[Array, " slot"]:
        """Tokens of each slot's row so far; 0 for an idle slot."""
        return jnp.where(slots.row < self.num_rows, slots.age, 0)

    def start_again(self, state: DecodeState, chosen: Bool[Array, " slot"]):
        """Takes back all tokens of the rows in the chosen slots."""
        row = state.slots.row
        slots = state.slots.begin(chosen, row, self.last_token(row))
        states = jax.tree.map(lambda x: x[self._prompt(row)], self.plan.states)
        row = jnp.where(chosen, row, self.num_rows)
        cleared = state.completions.clear(row, states)
        return eqx.tree_at(lambda x: (x.slots, x.completions), state, (slots, cleared))

    def _iterate(self, state: DecodeState) -> DecodeState:
        # Under tensor parallelism slots and completions are replicated: only caches
        # are sharded, too.
        names = "slots", "completions", "waiting"

        def pin(state: DecodeState) -> DecodeState:
            parts = {name: getattr(state, name) for name in names}
            return dataclasses.replace(state, **spmd.replicate(parts))

        return pin(self._decode_token(pin(state)))

    def _decode_token(self, state: DecodeState) -> DecodeState:
        slots, age = state.slots, self.age(state.slots)
        seen = state.cache.seen(state.iteration, age)
        tokens, age = slots.token[:, None], age[:, None]
        hidden, written = self.extend(state, tokens, age, seen)
        slots, completions, turn_over, ended = self._sample(
            slots, state.completions, hidden[:, 0]
        )
        # A dependency on all tokens (never negative) orders the write after the last
        # layer's read: XLA's CPU backend would else copy the cache to update it.
        iteration = jnp.where(jnp.all(slots.token >= 0), state.iteration, 0)
        cache, waiting = state.cache.write(self.policy, written, iteration), None
        if state.waiting is not None:  # Its slot is free until the row is answered.
            row_over, waiting = turn_over, state.waiting.add(slots, turn_over, ended)
        elif self.plan.env.max_turns == 1:
            terminated = completions.terminated.at[slots.row].max(ended, mode="drop")
            completions = eqx.tree_at(lambda r: r.terminated, completions, terminated)
            row_over = turn_over
        else:
            slots, completions, row_over = answer_turns(
                self.plan.env, slots, completions, turn_over, ended
            )
            row_over = row_over | (slots.age >= self._max_length(slots))
        slots, next_row, prompt_cache = self._refill(slots, row_over, state)
        now = state.iteration + 1, next_row, slots, cache, prompt_cache, completions
        return DecodeState(*now, waiting)

    def extend(
        self,
        state: DecodeState,
        tokens: Int[Array, "slot chunk"],
        age: Int[Array, "slot chunk"],
        seen: Seen,
        visible: Bool[Array, "slot chunk chunk"] | None = None,
    ) -> tuple[Float[Array, "slot chunk hidden"], PyTree]:
        """Reads a chunk of tokens in every slot; also returns their cache entries.

        **Arguments:**

        - `age`: the place of each token in its row.
        - `seen`: the columns that all tokens of a slot attend to.
        - `visible`: as in `AbstractPolicy.extend`.
        """
        slots = state.slots
        before = self.plan.prompts.length[self._prompt(slots.row)].astype(jnp.int32) - 1

        def one(slot, recent, first, prompt):
            tokens, age, before, visible, *own = slot
            past = self.context.past(first, prompt, before)
            past += state.cache.past(self.policy, recent, *own)
            return self.policy.extend(tokens, before + age, *past, visible=visible)

        # Replicated, so that everything derived from them is: no layer communicates.
        pages = state.cache.pages
        slot = spmd.replicate((tokens, age, before, visible, seen, pages))
        if self.refills:
            every = _map(one, in_axes=(0, 1, 1, 0), out_axes=(0, 1))
            caches = state.cache.recent, state.prompt_cache
            return every(slot, *caches, self._prompt(slots.row))
        members = _map(one, in_axes=(0, 1, None, None), out_axes=(0, 1))
        every = _map(members, in_axes=(0, 1, 1, 0), out_axes=(0, 1))
        number = jnp.arange(self.plan.keys.shape[0], dtype=jnp.int32)
        split = ft.partial(_split, self.plan.keys.shape)
        caches = split(1, state.cache.recent), self.context.first
        hidden, written = every(split(0, slot), *caches, number)
        return _merge(0, hidden), _merge(1, written)

    def _sample(
        self,
        slots: DecodeSlots,
        completions: Completions,
        hidden: Float[Array, "slot hidden"],
    ) -> tuple[DecodeSlots, Completions, Bool[Array, " slot"], Bool[Array, " slot"]]:
        """Records each slot's next token; which turns are over, and which ended."""
        slot = jnp.arange(self.plan.slots)
        key = self.plan.keys.reshape(-1)[jnp.minimum(slots.row, self.num_rows - 1)]
        key = jax.vmap(jr.fold_in)(key, slots.age)
        logits = spmd.shard_rows(self.policy.logits(spmd.replicate(hidden)))
        logits = mask_vocabulary(logits, self.plan.env.vocab_size)
        drawn = self.plan.sampler.draw(logits, slots.row, key=key)
        token, log_prob = spmd.replicate(drawn)
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
        ended, stop = turn_ends(self.plan.env, slots, completions, token, forced)
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
        slots = slots.begin(row_over, row, self.last_token(row))
        chosen = row_over & (row < self.num_rows)
        caches = self.context.copy(state.prompt_cache, chosen, self._prompt(row))
        return slots, next_row, caches


def _split(shape: tuple[int, ...], axis: int, tree: PyTree) -> PyTree:
    """Splits the axis of slots into prompts and their groups."""
    split = lambda x: x.reshape(*x.shape[:axis], *shape, *x.shape[axis + 1 :])
    return jax.tree.map(split, tree)


def _merge(axis: int, tree: PyTree) -> PyTree:
    """The inverse of `_split`."""
    merge = lambda x: x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return jax.tree.map(merge, tree)
