"""Supervised learning is the update with completions that are given."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import sharding
from grpojax.policy import log_prob

from .helpers import distance, transformer


PROMPTS = [[3, 1, 4], [5, 6], [9], [2, 7, 1, 8]]
COMPLETIONS = [[1, 5, 2], [7], [3, 3, 3, 3, 1], [6, 2]]


def step_of(rows=4, optimizer=optax.sgd(0.1), **changes) -> grpojax.SupervisedStep:
    given = grpojax.Demonstrations.of(PROMPTS, COMPLETIONS)
    return grpojax.SupervisedStep(given, optimizer, rows, **changes)


def negative_log_prob(policy):
    """Of all tokens of all completions, one row at a time."""
    pairs = zip(PROMPTS, COMPLETIONS, strict=True)
    pairs = [(jnp.array(x), jnp.array(y)) for x, y in pairs]
    total = sum(jnp.sum(log_prob(policy, x, y)) for x, y in pairs)
    return -total / sum(map(len, COMPLETIONS))


def test_the_loss_is_the_cross_entropy_of_the_completions():
    policy, step = transformer(), step_of()
    after, metrics = eqx.filter_jit(step)(step.init(policy, key=jr.key(0)))
    differentiate = eqx.filter_jit(eqx.filter_value_and_grad(negative_log_prob))
    loss, gradient = differentiate(policy)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-4
    )
    wanted = jax.tree.map(lambda x, g: x - 0.1 * g, policy, gradient)
    moved = distance(after.policy, policy)
    assert distance(after.policy, wanted) < 1e-4 * moved and moved > 0
    assert int(metrics["num_tokens"]) == 11 and float(metrics["epoch"]) == 1
    assert set(metrics) == {
        *("loss", "entropy", "grad_norm", "skipped_updates", "num_tokens", "epoch")
    }


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{"data": 4}, {"fsdp": 2, "tensor": 2}])
def test_neither_microbatches_nor_a_mesh_change_it(axes):
    policy, step = transformer(), step_of()
    state, _ = eqx.filter_jit(step)(step.init(policy, key=jr.key(0)))
    small = step_of(update=grpojax.UpdateConfig(tokens=4))
    mesh = sharding.make_mesh(**axes, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        start = sharding.place(small.init(policy, key=jr.key(0)), mesh)
        found, _ = eqx.filter_jit(sharding.place(small, mesh))(start)
    gathered = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), found.policy)
    assert distance(gathered, state.policy) < 1e-5


def test_each_demonstration_comes_once_in_an_epoch():
    seen, step = [], step_of(rows=2)
    state = step.init(transformer(), key=jr.key(3))
    for _ in range(4):
        rows, memory = step.draw(state)
        state = eqx.tree_at(lambda s: s.curriculum, state, memory)
        seen += rows.tolist()
    assert sorted(seen[:4]) == sorted(seen[4:]) == [0, 1, 2, 3]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 prompts and 1 completions"):
        grpojax.Demonstrations.of([[1], [2]], [[3]])
    with pytest.raises(ValueError, match="the shortest of 0 tokens"):
        grpojax.Demonstrations.of([[1]], [[]])
    with pytest.raises(ValueError, match=r"SupervisedStep\.rows"):
        step_of(rows=0)
    with pytest.raises(TypeError, match="weight"):
        step_of(weight=3)
    with pytest.raises(TypeError, match="optimizer"):
        step_of(optimizer=3)
