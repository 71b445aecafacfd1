"""A rollout that is cut anywhere is the rollout that was not."""

import itertools

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax import policy as policies, rollout, sharding
from grpojax.rollout import Until

from ..helpers import count_env, mostly_slow, transformer


start, finish = (eqx.filter_jit(f) for f in (rollout.start, rollout.finish))
advance, complete = (eqx.filter_jit(f) for f in (rollout.advance, rollout.complete))
ENVS = {
    "one turn": count_env(),
    "two turns": count_env(max_turns=2, reply_length=3, max_completion_length=16),
    "pages": count_env(ends=(-1,), max_prompt_length=90, max_completion_length=260),
}
LIMITS = jnp.array([[260, 3, 140], [20, 250, 129]])


def begin(env, policy, slots=None, **more):
    states, prompts = jax.vmap(env.reset)(jr.split(jr.key(1), 2))
    limits = LIMITS if env is ENVS["pages"] else None
    arguments = (policy, env, states, prompts)
    return arguments, dict(group=3, slots=slots, limits=limits, key=jr.key(2), **more)


@eqx.filter_jit
def teacher_forced(policy, trajectory):
    row = lambda prompt, tokens: policies.log_prob(policy, prompt, tokens)
    group = jax.vmap(row, in_axes=(None, 0))
    return jax.vmap(group)(trajectory.prompt, trajectory.tokens)


@pytest.mark.laws
@pytest.mark.parametrize(
    "name, slots",
    mostly_slow(itertools.product(ENVS, [None, 2]), fast=[("two turns", 2)]),
)
@settings(max_examples=4, deadline=None)
@given(cuts=st.lists(st.integers(0, 150), max_size=4))
def test_cut_anywhere(name, slots, cuts):
    policy = transformer()
    arguments, options = begin(ENVS[name], policy, slots)
    paused = start(*arguments, **options)
    for cut in cuts:
        until = Until(tokens=jnp.asarray(cut if name == "pages" else cut % 7))
        before = paused.shards[1].iteration
        paused = advance(paused, policy, until)
        assert (paused.shards[1].iteration - before <= until.tokens).all()
    found = finish(advance(paused, policy))
    chex.assert_trees_all_equal(found, complete(*arguments, **options))


@pytest.mark.laws
@pytest.mark.parametrize(
    "name, slots, cache_tokens",
    mostly_slow(
        itertools.product(ENVS, [None, 2], [None, 256]),
        fast=[("pages", 2, 256)],
    ),
)
def test_tokens_are_of_the_policy_of_their_version(name, slots, cache_tokens):
    old, new = transformer(seed=0), transformer(seed=1)
    env = ENVS[name]
    arguments, options = begin(env, old, slots, cache_tokens=cache_tokens)
    until = Until(tokens=jnp.asarray(5))
    paused = start(*arguments, **options)
    paused = advance(paused, old, until, version=jnp.asarray(0))
    steps = 130 if name == "pages" else 3
    for version, policy, tokens in ((1, new, steps), (2, old, 2), (3, new, 9999)):
        until = Until(tokens=jnp.asarray(tokens))
        paused = advance(paused, policy, until, version=jnp.asarray(version))
    found = finish(paused)
    versions = np.asarray(found.version)
    assert set(versions[found.sampled]) == {0, 1, 2, 3}
    assert (versions[~found.sampled] == -1).all()
    for policy, parity in ((old, 0), (new, 1)):
        gap = teacher_forced(policy, found) - found.log_prob
        gap = jnp.where(found.sampled & (versions % 2 == parity), gap, 0)
        assert float(jnp.abs(gap).max()) <= 1e-5


def test_it_pauses_when_so_many_groups_are_complete():
    policy = transformer()
    arguments, options = begin(ENVS["pages"], policy, slots=2)
    paused = advance(start(*arguments, **options), policy, Until(groups=jnp.asarray(1)))
    assert paused.complete.tolist() == [True, False]
    found, full = finish(paused), complete(*arguments, **options)
    np.testing.assert_array_equal(found.tokens[0], full.tokens[0])
    assert found.lengths.sum() < full.lengths.sum()
    paused = advance(paused, policy, Until(groups=jnp.asarray(2)))
    assert paused.complete.all()
    chex.assert_trees_all_equal(finish(paused), full)


@pytest.mark.skipif(len(jax.devices()) < 4, reason="needs four devices")
def test_on_a_mesh():
    policy = transformer()
    arguments, options = begin(ENVS["two turns"], policy, slots=4)
    expected = complete(*arguments, **options)
    mesh = sharding.make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        paused = start(*sharding.place(arguments, mesh), **options)
        for _ in range(3):
            paused = advance(paused, policy, Until(tokens=jnp.asarray(2)))
        assert paused.complete.shape == (2,)
        found = finish(advance(paused, policy, Until(tokens=jnp.asarray(99))))
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=1e-5)
