"""New prompts in a rollout under way are sampled as if they were alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from grpojax import rollout, sharding
from grpojax.rollout import Categorical, Greedy, RowSampler, Truncated, Until

from ..helpers import count_env, transformer


ENVS = {
    "short": count_env(max_prompt_length=6, max_completion_length=9),
    "pages": count_env(ends=(-1,), max_prompt_length=200, max_completion_length=280),
}
ROWS = 4
start, advance = eqx.filter_jit(rollout.start), eqx.filter_jit(rollout.advance)
insert, release = eqx.filter_jit(rollout.insert), eqx.filter_jit(rollout.release)
complete = eqx.filter_jit(rollout.complete)


def problems(env, count, seed):
    return jax.vmap(env.reset)(jr.split(jr.key(seed), count))


def keys_of(seeds):
    return jax.vmap(lambda seed: jr.fold_in(jr.key(seed), 0))(jnp.array(seeds))


def alone(policy, env, states, prompts, which, seed, limit, sampler):
    """One of the prompts, completed without any other."""
    states, prompts = jax.tree.map(lambda x: x[which][None], (states, prompts))
    return complete(
        policy,
        env,
        states,
        prompts,
        limits=jnp.array([[limit]]),
        sampler=sampler,
        key=jr.key(seed),
    )


def same(now, row, expected):
    length = int(expected.lengths[0, 0])
    assert int(now.length[row]) == length
    np.testing.assert_array_equal(now.tokens[row], expected.tokens[0, 0])
    np.testing.assert_allclose(now.log_prob[row], expected.log_prob[0, 0], atol=1e-5)
    assert bool(now.terminated[row]) == bool(expected.terminated[0, 0])


def numbers(temperature, top_k=(0,) * ROWS, top_p=(1.0,) * ROWS, min_p=(0.0,) * ROWS):
    floats = [jnp.array(x, jnp.float32) for x in (temperature, top_p, min_p)]
    return RowSampler(floats[0], jnp.array(top_k), floats[1], floats[2])


@pytest.mark.laws
@pytest.mark.parametrize("name", ENVS)
def test_a_row_that_begins_later_is_that_of_its_prompt_alone(name):
    env, policy = ENVS[name], transformer()
    limits, seeds = [280, 30, 5, 200, 9, 150], [7, 8, 9, 10, 11, 12]
    states, prompts = problems(env, 6, seed=3)
    take = lambda which: jax.tree.map(lambda x: x[jnp.array(which)], (states, prompts))
    paused = start(
        policy, env, *take([0, 1, 2, 3]), limits=jnp.ones((4, 1), int), key=jr.key(0)
    )
    waits = [[0, 1], [2, 3]], [[1, 2], [4, 5]]
    place = lambda paused, rows, which: insert(
        paused,
        policy,
        jnp.array(rows),
        *take(which),
        limits=jnp.array([limits[x] for x in which]),
        key=keys_of([seeds[x] for x in which]),
    )
    paused = place(paused, *waits[0])
    paused = advance(paused, policy, Until(tokens=jnp.array(3)))
    # Row 1 is not over yet: what it had sampled is forgotten.
    paused = place(paused, *waits[1])
    paused = advance(paused, policy, Until(tokens=jnp.array(40)))
    now = rollout.progress(advance(paused, policy))
    assert not now.active.any()
    for row, which in {0: 2, 1: 4, 2: 5}.items():
        args = policy, env, states, prompts, which, seeds[which], limits[which]
        same(now, row, alone(*args, Categorical()))
    assert int(now.length[3]) == 1


def test_rows_that_are_released_end_where_they_are():
    env, policy = ENVS["pages"], transformer()
    states, prompts = problems(env, ROWS, seed=3)
    paused = start(policy, env, states, prompts, key=jr.key(0))
    paused = advance(paused, policy, Until(tokens=jnp.array(4)))
    paused = release(paused, jnp.arange(ROWS) != 2)
    now = rollout.progress(advance(paused, policy, Until(tokens=jnp.array(5))))
    assert now.length.tolist() == [4, 4, 9, 4]
    assert now.active.tolist() == [False, False, True, False]
    assert not now.terminated.any()


@pytest.mark.slow
def test_each_row_has_its_own_sampler():
    env, policy = ENVS["pages"], transformer(sharpen=5.0)
    states, prompts = problems(env, ROWS, seed=3)
    samplers = [
        Categorical(0.7),
        Greedy(),
        Truncated(1.3, top_k=3, top_p=0.9),
        Truncated(0.9, min_p=0.3),
    ]
    given = numbers(
        [0.7, 0.0, 1.3, 0.9], [0, 0, 3, 0], [1.0, 1.0, 0.9, 1.0], [0.0, 0.0, 0.0, 0.3]
    )
    rows = jnp.arange(ROWS)
    paused = start(
        policy, env, states, prompts, sampler=numbers([1.0] * ROWS), key=jr.key(0)
    )
    limits = jnp.full(ROWS, 20)
    more = dict(limits=limits, sampler=given, key=keys_of([5, 6, 7, 8]))
    paused = insert(paused, policy, rows, states, prompts, **more)
    now = rollout.progress(advance(paused, policy))
    for row, sampler in enumerate(samplers):
        args = policy, env, states, prompts, row, 5 + row, 20
        same(now, row, alone(*args, sampler))


def test_one_sampler_of_a_row():
    logits = jr.normal(jr.key(0), (11,))
    one = jax.tree.map(lambda x: x[0], numbers([0.5] * ROWS, top_k=[2] * ROWS))
    found = one(logits, key=jr.key(1))
    assert found == Truncated(0.5, top_k=2)(logits, key=jr.key(1))


def test_what_cannot_take_new_prompts_is_refused():
    env, policy = ENVS["short"], transformer()
    states, prompts = problems(env, ROWS, seed=3)
    grouped = eqx.filter_eval_shape(
        lambda: start(policy, env, states, prompts, group=2, key=jr.key(0))
    )
    with pytest.raises(ValueError, match="has a slot of its own. Received group=2"):
        rollout.progress(grouped)
    mixed = eqx.filter_eval_shape(
        lambda: start(
            policy, env, states, prompts, sampler=numbers([1.0] * 4), key=jr.key(0)
        )
    )
    with pytest.raises(ValueError, match="sampled at one temperature"):
        eqx.filter_eval_shape(rollout.finish, mixed)
    wide = eqx.tree_at(lambda x: x.tokens, prompts, jnp.zeros((ROWS, 7), jnp.int32))
    with pytest.raises(ValueError, match="as wide as those before, 6 tokens"):
        jax.eval_shape(
            lambda: rollout.insert(
                mixed, policy, jnp.arange(4), states, wide, key=keys_of([0] * 4)
            )
        )


@pytest.mark.skipif(len(jax.devices()) < 4, reason="needs four devices")
def test_on_a_mesh():
    env, policy = ENVS["short"], transformer()
    states, prompts = problems(env, ROWS, seed=3)
    mesh = sharding.make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        arguments = sharding.place((policy, env, states, prompts), mesh)
        sampler = numbers([1.0, 1.0, 0.5, 1.0])
        paused = start(*arguments, sampler=sampler, key=jr.key(0))
        paused = release(paused, jnp.ones(ROWS, bool))
        two = jax.tree.map(lambda x: x[:2], (states, prompts))
        new = jax.tree.map(lambda x: x[:2], numbers([0.5, 0.9, 1.0, 1.0]))
        rows = jnp.array([3, 0])
        more = dict(limits=jnp.array([9, 9]), sampler=new, key=keys_of([1, 2]))
        paused = insert(paused, policy, rows, *two, **more)
        now = jax.device_get(rollout.progress(advance(paused, policy)))
    for which, (row, temperature) in enumerate([(3, 0.5), (0, 0.9)]):
        args = policy, env, states, prompts, which, 1 + which, 9
        same(now, row, alone(*args, Categorical(temperature)))
    assert now.length[1] == now.length[2] == 0
