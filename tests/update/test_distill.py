"""On-policy distillation: the gradient of the reverse KL, token by token."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import advantage, sharding, update
from grpojax.types import Rewards

from ..helpers import count_env, distance, transformer
from .doubles import bigram, log_probs, random_trajectory


@eqx.filter_jit
def improved(policy, trajectory, advantages, objective, teacher=None):
    optimizer = optax.sgd(0.1)
    return update.improve(
        policy,
        optimizer.init(policy),
        trajectory,
        advantages,
        objective=objective,
        optimizer=optimizer,
        teacher=teacher,
    )


def test_it_is_the_policy_gradient_with_the_teachers_log_probs_as_the_advantage():
    student, teacher = bigram(seed=1), bigram(seed=2)
    trajectory = random_trajectory(student)
    own, _ = log_probs(student.table, trajectory)
    other, _ = log_probs(teacher.table, trajectory)
    none = advantage.zero(Rewards.of(jnp.ones((4, 4))))
    assert not none.any()
    objective = update.Objective(penalties=(update.Distill(),))
    found, _, metrics = improved(student, trajectory, none, objective, teacher=teacher)
    by_hand = update.Objective(surrogate=update.Reinforce())
    wanted, _, _ = improved(student, trajectory, other - own, by_hand)
    assert distance(found, wanted) < 1e-6 < 1e-3 < distance(found, student)
    gap = np.asarray(own - other)[np.asarray(trajectory.sampled)]
    np.testing.assert_allclose(metrics["teacher/kl"], gap.mean(), rtol=1e-5)


def test_what_it_estimates_is_the_kl_of_the_table():
    """Over many tokens from one state the gap averages to the exact reverse KL."""
    student, teacher = bigram(seed=1), bigram(seed=2)
    p = jax.nn.log_softmax(student.table, axis=-1)
    q = jax.nn.log_softmax(teacher.table, axis=-1)
    exact = jnp.sum(jnp.exp(p[0]) * (p[0] - q[0]))
    tokens = jr.categorical(jr.key(0), p[0], shape=(20_000,))
    batch = update.Batch(
        jnp.zeros((1, 1)), jnp.ones((1, 20_000), bool), teacher=q[0][tokens][None]
    )
    inputs = update.LossInputs(
        p[0][tokens][None],
        p[0][tokens][None],
        batch,
        update.LossWeights(jnp.zeros((1, 20_000))),
    )
    gaps = update.Distill.gap(inputs)
    error = jnp.std(gaps) / jnp.sqrt(20_000)
    assert abs(jnp.mean(gaps) - exact) < 4 * error


def test_without_a_teacher_it_is_refused():
    student = bigram()
    trajectory = random_trajectory(student)
    objective = update.Objective(penalties=(update.Distill(),))
    with pytest.raises(ValueError, match=r"TrainStep\(\.\.\., teacher=policy\)"):
        improved(student, trajectory, jnp.zeros((4, 4)), objective)
    with pytest.raises(ValueError, match="Distill.coefficient"):
        update.Distill(-1.0)


def step_of(teacher):
    grpo = grpojax.algorithms.grpo()
    objective = dataclasses.replace(grpo.objective, penalties=(update.Distill(),))
    algorithm = grpojax.algorithms.Algorithm(
        advantage.zero, advantage.keep_all, objective
    )
    return grpojax.TrainStep(
        count_env(),
        optax.sgd(0.1),
        algorithm,
        rollout=grpojax.RolloutConfig(prompts=4, group=2),
        teacher=teacher,
    )


@pytest.mark.slow
def test_a_teacher_of_another_size_teaches_on_a_mesh_as_on_one_device():
    student, step = transformer("qwen2"), step_of(transformer("llama", seed=3))
    state = step.init(student, key=jr.key(0))
    after, metrics = eqx.filter_jit(step)(state)
    assert metrics["teacher/kl"] > 0.1 and distance(after.policy, student) > 0
    mesh = sharding.make_mesh(fsdp=2, tensor=1, devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        start = sharding.place(step.init(student, key=jr.key(0)), mesh)
        found, _ = eqx.filter_jit(sharding.place(step, mesh))(start)
    gathered = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), found.policy)
    assert distance(gathered, after.policy) < 1e-5
