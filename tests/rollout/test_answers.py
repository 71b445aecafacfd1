"""A rollout whose turns are answered outside is the one of the same environment."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from grpojax import rollout, sharding
from grpojax.rollout import Answers, Until

from ..helpers import count_env, CountEnv, transformer


start, finish = (eqx.filter_jit(f) for f in (rollout.start, rollout.finish))
advance, complete = (eqx.filter_jit(f) for f in (rollout.advance, rollout.complete))
answer = eqx.filter_jit(rollout.answer)
SIZES = {
    "short": dict(max_turns=3, reply_length=3, max_completion_length=20),
    "pages": dict(
        ends=(1, 2, 3), max_turns=6, reply_length=30, max_completion_length=300
    ),
}


class Pausing(CountEnv):
    @property
    def pauses(self):
        return True


def pausing(env):
    return Pausing(**vars(env))


def begin(env):
    states, prompts = jax.vmap(env.reset)(jr.split(jr.key(1), 2))
    return states, prompts


def by_hand(policy, env, inner, *, slots, rng, tokens=7):
    """The rollout, with rows answered in random order, and what its pauses were."""
    paused = start(policy, env, *begin(env), group=3, slots=slots, key=jr.key(2))
    states, pauses = np.zeros((2, 3), np.int32), 0
    while True:
        paused = advance(paused, policy, Until(tokens=jnp.asarray(tokens)))
        asks, turns = np.asarray(paused.asks), paused.turns
        state = paused.shards[1]
        running = state.slots.row < state.completions.terminated.shape[1]
        if not asks.any():
            if not np.asarray(running).any():
                return finish(paused), pauses
            continue
        chosen = asks & (rng.random(asks.shape) < 0.6)
        _, step = jax.vmap(jax.vmap(inner.step))(jnp.asarray(states), turns)
        states, pauses = states + chosen, pauses + 1
        paused = answer(
            paused, Answers(chosen, step.reply, step.reply_length, step.done)
        )


def assert_same(found, expected):
    for name in ("tokens", "sampled", "terminated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=1e-5)


@pytest.mark.laws
@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("short", None),
        ("short", 2),
        ("pages", 2),
        pytest.param("pages", None, marks=pytest.mark.slow),
    ],
)
def test_it_is_the_trajectory_of_the_environment_in_the_graph(name, slots):
    policy, inner = transformer(), count_env(**SIZES[name])
    expected = complete(
        policy, inner, *begin(inner), group=3, slots=slots, key=jr.key(2)
    )
    tokens = 60 if name == "pages" else 7
    found, pauses = by_hand(
        policy,
        pausing(inner),
        inner,
        slots=slots,
        rng=np.random.default_rng(0),
        tokens=tokens,
    )
    assert pauses > 1 and not found.sampled.all()
    assert_same(found, expected)


def test_it_pauses_as_soon_as_a_row_waits():
    policy, env = transformer(), pausing(count_env(**SIZES["short"]))
    paused = start(policy, env, *begin(env), group=3, key=jr.key(2))
    paused = advance(paused, policy, Until(waiting=jnp.asarray(1)))
    asks = np.asarray(paused.asks)
    assert asks.sum() >= 1 and not paused.complete.any()
    turns = jax.tree.map(np.asarray, paused.turns)
    ages = turns.length[asks]
    assert (ages == paused.shards[1].iteration).all()
    ends = np.take_along_axis(turns.tokens, turns.length[..., None] - 1, axis=-1)
    assert set(ends[asks].ravel()) <= {1, 2, 3, 4, 5} and turns.ended[asks].all()
    # A reply that does not fit is cut, and the row is truncated.
    reply = np.full((2, 3, 64), 9, np.int32)
    answers = Answers(asks, reply, np.full((2, 3), 64, np.int32), ~asks)
    paused = advance(answer(paused, answers), policy, Until(tokens=jnp.asarray(0)))
    assert not (paused.asks & asks).any()
    found = finish(paused)
    rows, sampled = np.asarray(found.tokens)[asks], np.asarray(found.sampled)[asks]
    assert (rows[~sampled] == 9).all() and (sampled.sum(axis=-1) == ages).all()
    assert not found.terminated[asks].any()


def test_what_cannot_pause_says_so():
    policy, env = transformer(), pausing(count_env(**SIZES["short"]))
    with pytest.raises(ValueError, match="wait for answers from outside"):
        rollout.complete(policy, env, *begin(env), key=jr.key(2))
    with pytest.raises(ValueError, match="cache_tokens=400: leave it out"):
        rollout.start(policy, env, *begin(env), cache_tokens=400, key=jr.key(2))


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_on_a_mesh():
    policy, inner = transformer(), count_env(**SIZES["short"])
    expected = complete(policy, inner, *begin(inner), group=3, key=jr.key(2))
    mesh = sharding.make_mesh(data=2, devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        found, _ = by_hand(
            sharding.place(policy, mesh),
            pausing(inner),
            inner,
            slots=4,
            rng=np.random.default_rng(0),
        )
    assert_same(jax.device_get(found), expected)
