"""The decode engine: continuous batching inside one compiled loop.

Rows (a prompt's `group` samples, prompt after prompt) are decoded in `slots` lanes.
A lane whose row ends takes the next row; its prompt's keys and values exist already
and are copied in. All lanes write their newest keys and values to one shared column,
`iteration mod time`, so that the write is one slice: the cache is a ring, and what a
lane sees of it is the columns younger than its row.

A row's randomness is its own, `fold_in(row key, time)`, and a row's result does not
depend on its neighbors: the tokens are the same for every number of slots.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ..env import AbstractEnvironment, TimeStep, Turn
from ..policy import AbstractPolicy, empty_cache, Past
from ..sharding import spmd
from ..types import Prompt
from ._loop import Lanes, Loop, Rows
from ._sample import AbstractSampler


class Engine(eqx.Module):
    """What is constant in one rollout; see `run`.

    **Fields:**

    - `policy`: samples, laid out for decoding.
    - `env`: answers each turn.
    - `states`, `prompts`: what `env.reset` gave, stacked over prompts.
    - `keys`: one key a row; a token's randomness is `fold_in(row key, time)`.
    - `context`: the prompts' caches, stacked over prompts on axis 1.
    - `sampler`: draws the tokens.
    - `limits`: each row's own horizon.
    - `slots`: how many rows are decoded at a time.
    """

    policy: AbstractPolicy
    env: AbstractEnvironment
    states: PyTree
    prompts: Prompt
    keys: Key[Array, "prompt group"]
    context: PyTree
    sampler: AbstractSampler
    limits: Int[Array, "prompt group"]
    slots: int = eqx.field(static=True)

    @property
    def time(self) -> int:
        return self.env.max_completion_length

    @property
    def group(self) -> int:
        return self.keys.shape[1]

    @property
    def count(self) -> int:
        return self.keys.size

    @property
    def refills(self) -> bool:
        """Without refills a group reads its prompt's cache where it lies."""
        return self.slots < self.count

    def run(self) -> tuple[Rows, Int[Array, ""]]:
        """Decodes every row until its conversation is over; also counts iterations."""
        loop = jax.lax.while_loop(
            lambda loop: jnp.any(loop.lanes.row < self.count),
            lambda loop: self._iterate(loop),
            self._start(),
        )
        rows = loop.rows
        if self.env.max_turns == 1:
            # A single turn needs no reply: all rows are answered at once, at the end.
            length = jnp.sum(rows.sampled, axis=-1, dtype=jnp.int32)
            turns = Turn(rows.tokens, length, rows.terminated)
            _, answer = jax.vmap(self.env.step)(rows.env_state, turns)
            rows = eqx.tree_at(lambda r: r.rewards, rows, answer.rewards)
        return rows, loop.iteration

    def _start(self) -> Loop:
        row = jnp.arange(self.slots, dtype=jnp.int32)
        zeros = lambda *shape: jnp.zeros(shape, jnp.int32)
        answer = self._answer_shape()
        rows = Rows(
            tokens=zeros(self.count, self.time),
            sampled=jnp.zeros((self.count, self.time), bool),
            log_prob=jnp.zeros((self.count, self.time), jnp.float32),
            terminated=jnp.zeros(self.count, bool),
            rewards={
                name: jnp.zeros(self.count, reward.dtype)
                for name, reward in answer.rewards.items()
            },
            env_state=jax.tree.map(
                lambda x: jnp.repeat(x, self.group, axis=0), self.states
            ),
        )
        lanes = Lanes(
            row=row,
            age=zeros(self.slots),
            token=self._last_token(row),
            turn=zeros(self.slots),
            turn_start=zeros(self.slots),
            reply_start=zeros(self.slots),
            reply=zeros(self.slots, answer.reply.shape[0]),
        )
        prompt = self._prompt(row)
        copies = jax.tree.map(lambda x: x[:, prompt], self.context)
        return Loop(
            iteration=jnp.zeros((), jnp.int32),
            next_row=jnp.array(self.slots, jnp.int32),
            lanes=lanes,
            cache=self._empty_cache(),
            copies=copies if self.refills else None,
            rows=rows,
        )

    def _empty_cache(self) -> PyTree:
        """`time` columns for every slot; never read before they are written."""
        one = empty_cache(self.policy, self.time)
        return jax.tree.map(lambda x: jnp.repeat(x[:, None], self.slots, axis=1), one)

    def _answer_shape(self) -> TimeStep:
        state = jax.tree.map(lambda x: x[0], self.states)
        turn = Turn(
            jnp.zeros(self.time, jnp.int32), jnp.zeros((), jnp.int32), jnp.array(False)
        )
        return jax.eval_shape(self.env.step, state, turn)[1]

    def _prompt(self, row: Int[Array, " slot"]) -> Int[Array, " slot"]:
        """The prompt of each row; the last one's for a lane that has no row."""
        return jnp.minimum(row, self.count - 1) // self.group

    def _limit(self, lanes: Lanes) -> Int[Array, " slot"]:
        return self.limits.reshape(-1)[jnp.minimum(lanes.row, self.count - 1)]

    def _last_token(self, row: Int[Array, " slot"]) -> Int[Array, " slot"]:
        prompt = self._prompt(row)
        last = self.prompts.length[prompt] - 1
        return self.prompts.tokens[prompt, last].astype(jnp.int32)

    def _iterate(self, loop: Loop) -> Loop:
        # Where layers are cut, all devices follow all lanes: only caches are cut, too.
        pin = lambda loop: eqx.tree_at(
            lambda x: (x.lanes, x.rows), loop, replace_fn=spmd.replicate
        )
        return pin(self._advance(pin(loop)))

    def _advance(self, loop: Loop) -> Loop:
        hidden, written = self._extend(loop)
        lanes, rows, turn_over, ended = self._say(loop.lanes, loop.rows, hidden)
        # Written after all layers have read theirs, and XLA's CPU backend must see it:
        # where nothing says so, it copies a cache that is read and written. Tokens are
        # what follows from all layers, and are never negative.
        column = jnp.where(jnp.all(lanes.token >= 0), loop.iteration % self.time, 0)
        cache = self.policy.write(loop.cache, written, column)
        if self.env.max_turns == 1:
            terminated = rows.terminated.at[lanes.row].max(ended, mode="drop")
            rows = eqx.tree_at(lambda r: r.terminated, rows, terminated)
            over = turn_over
        else:
            lanes, rows, over = self._answer(lanes, rows, turn_over, ended)
        lanes, next_row, copies = self._refill(lanes, over, loop)
        return Loop(loop.iteration + 1, next_row, lanes, cache, copies, rows)

    def _extend(self, loop: Loop) -> tuple[Float[Array, "slot hidden"], PyTree]:
        """Reads one token in every lane; returns also what is to be cached of it."""
        lanes = loop.lanes
        past = (loop.iteration - jnp.arange(self.time, dtype=jnp.int32)) % self.time
        # The token itself is not in the cache yet: its column holds what it replaces.
        seen = (past > 0) & (past[None] <= lanes.age[:, None])
        before = self.prompts.length[self._prompt(lanes.row)].astype(jnp.int32) - 1
        width = jnp.arange(self.prompts.tokens.shape[1])

        def one(lane, cache, context):
            token, age, seen, before = lane
            prompt = Past(context, (width < before)[None])
            own = Past(cache, seen[None])
            position = (before + age)[None]
            hidden, cache = self.policy.extend(token[None], position, prompt, own)
            return hidden[0], cache

        # What follows of them is known everywhere, too: no layer has to ask for it.
        lane = spmd.replicate((lanes.token, lanes.age, seen, before))
        if self.refills:
            every = jax.vmap(one, in_axes=(0, 1, 1), out_axes=(0, 1))
            hidden, written = every(lane, loop.cache, loop.copies)
        else:
            members = jax.vmap(one, in_axes=(0, 1, None), out_axes=(0, 1))
            every = jax.vmap(members, in_axes=(0, 1, 1), out_axes=(0, 1))
            folded = self._fold(0, lane), self._fold(1, loop.cache), self.context
            hidden, written = every(*folded)
            hidden, written = self._unfold(0, hidden), self._unfold(1, written)

        return hidden, written

    def _fold(self, axis: int, tree: PyTree) -> PyTree:
        """Cuts the axis of slots into prompts and their groups."""
        shape = self.keys.shape
        cut = lambda x: x.reshape(*x.shape[:axis], *shape, *x.shape[axis + 1 :])
        return jax.tree.map(cut, tree)

    def _unfold(self, axis: int, tree: PyTree) -> PyTree:
        join = lambda x: x.reshape(*x.shape[:axis], self.count, *x.shape[axis + 2 :])
        return jax.tree.map(join, tree)

    def _say(
        self, lanes: Lanes, rows: Rows, hidden: Float[Array, "slot hidden"]
    ) -> tuple[Lanes, Rows, Bool[Array, " slot"], Bool[Array, " slot"]]:
        """Writes each lane's next token; says which turns are over, and which ended."""
        lane = jnp.arange(self.slots)
        key = self.keys.reshape(-1)[jnp.minimum(lanes.row, self.count - 1)]
        key = jax.vmap(jr.fold_in)(key, lanes.age)
        draw = lambda logits, key: self.sampler(logits, key=key)
        logits = spmd.shard_rows(self.policy.logits(spmd.replicate(hidden)))
        token, log_prob = spmd.replicate(jax.vmap(draw)(logits, key))
        token = token.astype(jnp.int32)
        forced = lanes.age < lanes.turn_start
        if lanes.reply.shape[1] > 0:
            reply = lanes.reply[lane, lanes.age - lanes.reply_start]
            token = jnp.where(forced, reply, token)
        place = (lanes.row, lanes.age)  # Past the last row: dropped.
        rows = eqx.tree_at(
            lambda r: (r.tokens, r.sampled, r.log_prob),
            rows,
            (
                rows.tokens.at[place].set(token, mode="drop"),
                rows.sampled.at[place].set(~forced, mode="drop"),
                rows.log_prob.at[place].set(
                    jnp.where(forced, 0, log_prob), mode="drop"
                ),
            ),
        )
        age = lanes.age + 1
        ended = ~forced & jnp.any(token[:, None] == self.env.end_tokens[None], axis=1)
        turn_over = ~forced & (ended | (age >= self._limit(lanes)))
        lanes = eqx.tree_at(lambda x: (x.age, x.token), lanes, (age, token))
        return lanes, rows, turn_over, ended

    def _answer(
        self,
        lanes: Lanes,
        rows: Rows,
        turn_over: Bool[Array, " slot"],
        ended: Bool[Array, " slot"],
    ) -> tuple[Lanes, Rows, Bool[Array, " slot"]]:
        """Lets the environment answer the turns that are over, if there are any."""

        def answer(lanes: Lanes, rows: Rows):
            row = jnp.minimum(lanes.row, self.count - 1)
            length = lanes.age - lanes.turn_start
            offset = jnp.arange(self.time)[None]
            said = jnp.take_along_axis(
                rows.tokens[row],
                jnp.minimum(lanes.turn_start[:, None] + offset, self.time - 1),
                axis=1,
            )
            said = jnp.where(offset < length[:, None], said, 0)
            state = jax.tree.map(lambda x: x[row], rows.env_state)
            state, step = jax.vmap(self.env.step)(state, Turn(said, length, ended))
            last = step.done | (lanes.turn + 1 >= self.env.max_turns)
            # Lanes whose turn goes on, and lanes without a row, write nowhere.
            place = jnp.where(turn_over, lanes.row, self.count)
            rows = Rows(
                rows.tokens,
                rows.sampled,
                rows.log_prob,
                rows.terminated.at[place].set(ended & last, mode="drop"),
                {
                    name: paid.at[place].add(step.rewards[name], mode="drop")
                    for name, paid in rows.rewards.items()
                },
                jax.tree.map(
                    lambda all, new: all.at[place].set(new, mode="drop"),
                    rows.env_state,
                    state,
                ),
            )
            pick = lambda new, old: jnp.where(turn_over, new, old)
            lanes = Lanes(
                lanes.row,
                lanes.age,
                lanes.token,
                pick(lanes.turn + 1, lanes.turn),
                pick(lanes.age + step.reply_length, lanes.turn_start),
                pick(lanes.age, lanes.reply_start),
                jnp.where(turn_over[:, None], step.reply, lanes.reply),
            )
            return lanes, rows, turn_over & last

        nothing = lambda lanes, rows: (lanes, rows, jnp.zeros_like(turn_over))
        # One `cond` for all lanes: batched by `vmap` it would run both branches.
        lanes, rows, over = jax.lax.cond(
            jnp.any(turn_over), answer, nothing, lanes, rows
        )
        return lanes, rows, over | (lanes.age >= self._limit(lanes))

    def _refill(
        self, lanes: Lanes, over: Bool[Array, " slot"], loop: Loop
    ) -> tuple[Lanes, Int[Array, ""], PyTree | None]:
        """Hands the next rows to the lanes that are done with theirs."""
        if not self.refills:
            row = jnp.where(over, self.count, lanes.row)
            lanes = eqx.tree_at(lambda x: x.row, lanes, row)
            return lanes, loop.next_row, None
        rank = jnp.cumsum(over, dtype=jnp.int32) - 1
        row = jnp.where(over, jnp.minimum(loop.next_row + rank, self.count), lanes.row)
        next_row = jnp.minimum(loop.next_row + rank[-1] + 1, self.count)
        fresh = lambda x: jnp.where(over, 0, x)
        lanes = Lanes(
            row=row,
            age=fresh(lanes.age),
            token=jnp.where(over, self._last_token(row), lanes.token),
            turn=fresh(lanes.turn),
            turn_start=fresh(lanes.turn_start),
            reply_start=fresh(lanes.reply_start),
            reply=lanes.reply,
        )
        prompt = self._prompt(row)

        def copy_one(carry):
            pending, copies = carry
            lane = jnp.argmax(pending)
            put = lambda all, prompts: all.at[:, lane].set(prompts[:, prompt[lane]])
            copies = jax.tree.map(put, copies, self.context)
            return pending.at[lane].set(False), copies

        # One slice for each refilled lane: a `where` over all would move every cache.
        pending = over & (row < self.count)
        _, copies = jax.lax.while_loop(
            lambda carry: jnp.any(carry[0]), copy_one, (pending, loop.copies)
        )
        return lanes, next_row, copies
