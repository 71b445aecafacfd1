"""The conformance checks pass what keeps the contract, and name what does not."""

import dataclasses
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest

from grpojax.env import TimeStep
from grpojax.testing import check_env, check_policy

from .helpers import (
    CONFIGS,
    count_env,
    CountEnv,
    mostly_slow,
    transformer,
    UniformPolicy,
)


@pytest.mark.parametrize("family", mostly_slow(CONFIGS, ["qwen3"]))
def test_transformers_keep_the_contract(family):
    check_policy(transformer(family), key=jr.key(1))


def test_doubles_keep_the_contract():
    check_policy(UniformPolicy(vocab_size=7), key=jr.key(0))
    check_env(count_env(), key=jr.key(0))
    check_env(count_env(max_turns=3, reply_length=2), key=jr.key(0))


class Peeking(UniformPolicy):
    """Sees later tokens of its chunk."""

    def extend(self, tokens, positions, cache=None, **_):
        del positions
        return jnp.full((tokens.shape[0], 1), jnp.sum(tokens, dtype=float)), cache

    def logits(self, hidden):
        return hidden * jnp.arange(self.vocab_size, dtype=float)


def test_a_policy_that_peeks_is_named():
    with pytest.raises(AssertionError, match="Any chunking|does not see later"):
        check_policy(Peeking(), key=jr.key(0))


BIG = np.arange(2**16, dtype=np.float32)


class Broken(CountEnv):
    fault: str = eqx.field(static=True, default="")
    table: jax.Array | None = None

    def reset(self, key):
        state, prompt = super().reset(key)
        if self.fault == "length":
            prompt = dataclasses.replace(prompt, length=jnp.zeros((), jnp.int32))
        if self.fault == "vocab":
            prompt = dataclasses.replace(prompt, tokens=prompt.tokens + 50)
        if self.fault == "width":
            prompt = dataclasses.replace(prompt, tokens=prompt.tokens[:-1])
        return state, prompt

    def step(self, state, turn):
        after, answer = super().step(state, turn)
        if self.fault == "state":
            after = after.astype(jnp.float32)
        if self.fault == "nan":
            answer = dataclasses.replace(answer, rewards={"x": jnp.nan * jnp.ones(())})
        if self.fault == "done":
            answer = dataclasses.replace(answer, done=jnp.array(False))
        if self.fault == "reply":
            answer = TimeStep(
                answer.reply, jnp.asarray(3, jnp.int32), answer.rewards, answer.done
            )
        if self.fault == "constant":
            paid = jnp.asarray(BIG)[turn.length]
            answer = dataclasses.replace(answer, rewards={"x": paid})
        return after, answer


@pytest.mark.parametrize(
    "fault, words",
    [
        ("length", "length is between 1"),
        ("vocab", "below vocab_size=50"),
        ("width", "padded to `max_prompt_length`"),
        ("state", "keeps its structure"),
        ("nan", "finite floats"),
        ("done", "single-turn"),
        ("reply", "reply's length is between 0"),
        ("constant", "262144 bytes of constants"),
    ],
)
def test_a_broken_environment_is_named(fault, words):
    env = Broken(jnp.asarray([1]), jnp.asarray(7), fault=fault)
    with pytest.raises(AssertionError, match=words):
        check_env(env, key=jr.key(0), tries=4)


class BrokenLater(CountEnv):
    """Keeps the contract in its first turn, and breaks it in a later one."""

    fault: str = eqx.field(static=True, default="")
    turn: int = eqx.field(static=True, default=2)

    def step(self, state, turn):
        after, answer = super().step(state, turn)
        late = state + 1 >= self.turn
        pick = lambda broken, good: jnp.where(late, broken, good)
        if self.fault == "length":
            reply = pick(9999, answer.reply)
            answer = TimeStep(
                reply, pick(99, answer.reply_length), answer.rewards, answer.done
            )
        if self.fault == "vocab":
            answer = dataclasses.replace(answer, reply=pick(9999, answer.reply))
        if self.fault == "nan":
            rewards = {n: pick(jnp.nan, x) for n, x in answer.rewards.items()}
            answer = dataclasses.replace(answer, rewards=rewards)
        if self.fault == "negative":
            answer = dataclasses.replace(answer, reply_length=pick(-1, jnp.asarray(2)))
        if self.fault == "goes on":
            # Over after the turn before, and not over any more in this one.
            answer = dataclasses.replace(answer, done=state + 1 == self.turn - 1)
        if self.fault in ("paid", "unpaid"):
            over = state + 1 >= self.turn - 1
            paid = jnp.where(state + 1 >= self.turn, float(self.fault == "paid"), 1.0)
            answer = dataclasses.replace(answer, done=over, rewards={"target": paid})
        return after, answer


@pytest.mark.parametrize("turn", [2, 3])
@pytest.mark.parametrize(
    "fault, words",
    [
        ("length", "A reply's length is between 0 and its width, 2. Received 99 to 99"),
        ("vocab", "Reply tokens are below vocab_size=50 .* Received 9999"),
        ("nan", "Rewards are finite floats. Received 'target'"),
        ("negative", "A reply's length is between 0 and its width, 2. Received -1"),
        ("goes on", "A conversation that is over stays so"),
        ("paid", "A turn after `done` is paid nothing. Received 'target' of 1.0"),
    ],
)
def test_a_fault_of_a_later_turn_is_named_with_its_turn(fault, words, turn):
    sizes = dict(max_turns=3, reply_length=2)
    env = BrokenLater(jnp.asarray([1]), jnp.asarray(7), fault=fault, turn=turn, **sizes)
    with pytest.raises(AssertionError, match=f"Turn {turn}: {words}"):
        check_env(env, key=jr.key(0))


def test_turns_after_the_end_may_be_taken_if_they_are_paid_nothing():
    sizes = dict(max_turns=3, reply_length=2, fault="unpaid", turn=2)
    check_env(BrokenLater(jnp.asarray([1]), jnp.asarray(7), **sizes), key=jr.key(0))


class BrokenReply(CountEnv):
    """A reply of several turns that has another dtype, or more tokens than can be."""

    fault: str = eqx.field(static=True, default="")

    def step(self, state, turn):
        after, answer = super().step(state, turn)
        reply, length = answer.reply, answer.reply_length
        if self.fault == "float reply":
            reply = reply.astype(jnp.float32)
        if self.fault == "float length":
            length = length.astype(jnp.float32)
        if self.fault == "wide":
            reply = jnp.zeros(99, jnp.int32)
        if self.fault == "two rows":
            reply = jnp.stack([reply, reply])
        answer = TimeStep(reply, length, answer.rewards, answer.done)
        # A state that grows by a turn, as a history of all turns would.
        grown = jnp.zeros((int(self.fault == "grows") + 1,) * (after.ndim + 1))
        return (grown if self.fault == "grows" else after), answer


@pytest.mark.parametrize(
    "fault, words",
    [
        ("float reply", "A reply is one row of token ids. Received .* float32"),
        ("float length", "`reply_length` is an integer. Received float32"),
        ("two rows", "A reply is one row of token ids. Received the shape"),
        ("wide", "A reply fits the horizon, max_completion_length=12. .* width 99"),
        ("grows", "A state keeps its structure, shapes and dtypes"),
    ],
)
def test_a_reply_or_a_state_of_another_shape_is_named(fault, words, monkeypatch):
    # Without the tests' type checker, which a reader's program does not have.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    sizes = dict(max_turns=3, reply_length=2, fault=fault)
    env = BrokenReply(jnp.asarray([1]), jnp.asarray(7), **sizes)
    with pytest.raises(AssertionError, match=f"Turn 1: {words}"):
        check_env(env, key=jr.key(0), tries=4)


def test_turns_beyond_the_last_one_are_not_played():
    sizes = dict(max_turns=3, reply_length=2, fault="length", turn=4)
    check_env(BrokenLater(jnp.asarray([1]), jnp.asarray(7), **sizes), key=jr.key(0))


class Impure(CountEnv):
    """A counter outside of the state: the second turn's answer depends on history."""

    def step(self, state, turn):
        after, answer = super().step(state, turn)
        calls = lambda _: np.float32(next(COUNTER))
        drawn = jax.pure_callback(
            calls, jax.ShapeDtypeStruct((), np.float32), state, vmap_method="sequential"
        )
        paid = answer.rewards["target"] + jnp.where(state == 1, drawn, 0)
        return after, dataclasses.replace(answer, rewards={"target": paid})


COUNTER = itertools.count()


def test_a_later_step_that_is_not_pure_is_named():
    env = Impure(jnp.asarray([1]), jnp.asarray(7), max_turns=2)
    with pytest.raises(AssertionError, match="Turn 2: `step` is pure"):
        check_env(env, key=jr.key(0), tries=4)
