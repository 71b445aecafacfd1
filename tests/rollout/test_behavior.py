"""A behavior policy with weights of 8 bits, beside the trained policy."""

import dataclasses
import functools as ft

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import algorithms, masked, models, rollout, update

from ..helpers import (
    count_env,
    distance,
    learned,
    transformer,
    UniformPolicy,
)
from .test_engine import generate, SINGLE, teacher_forced, TWO


def adapted(policy):
    return learned(models.lora(policy, rank=2, alpha=4.0, key=jr.key(3)))


POLICIES = {
    "llama": transformer,
    "tied": lambda: transformer("qwen2"),
    "lora": lambda: adapted(transformer("qwen3")),
}


def gap(policy, trajectory):
    """|log π - recorded| of the tokens that were sampled."""
    found = jnp.abs(teacher_forced(policy, trajectory) - trajectory.log_prob)
    return masked.fill(found, trajectory.sampled)


@pytest.mark.laws
@pytest.mark.parametrize(
    "name, env",
    [
        pytest.param("llama", SINGLE, marks=pytest.mark.slow),
        pytest.param("tied", SINGLE, marks=pytest.mark.slow),
        pytest.param("lora", SINGLE, marks=pytest.mark.slow),
        ("llama", TWO),
    ],
)
def test_recorded_log_prob_is_that_of_the_quantized_policy(name, env):
    policy = POLICIES[name]()
    sizes = dict(prompts=3, group=4, behavior=models.quantize, key=jr.key(0))
    full = generate(policy, env, **sizes)
    some = generate(policy, env, slots=5, **sizes)
    np.testing.assert_array_equal(full.tokens, some.tokens)
    for trajectory in (full, some):
        assert float(gap(models.quantize(policy), trajectory).max()) <= 1e-5
        assert float(gap(policy, trajectory).max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        dict(dtype="bfloat16"),
        dict(compute_dtype="bfloat16", cache_dtype="float32"),
        dict(cache_dtype="int8"),
    ],
    ids=str,
)
def test_every_dtype_samples_as_the_quantized_policy_does(settings):
    policy = transformer(**settings)
    sizes = dict(prompts=3, group=4, slots=5, key=jr.key(0))
    found = generate(policy, SINGLE, behavior=models.quantize, **sizes)
    expected = generate(models.quantize(policy), SINGLE, **sizes)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    chex.assert_trees_all_close(found.log_prob, expected.log_prob, atol=1e-5)


def test_a_base_in_8_bits_samples_as_it_is():
    policy = adapted(models.quantize(transformer()))
    sizes = dict(prompts=3, group=4, key=jr.key(0))
    found = generate(policy, SINGLE, behavior=models.quantize, **sizes)
    chex.assert_trees_all_equal(found, generate(policy, SINGLE, **sizes))


def test_decoding_reads_a_byte_of_every_weight_and_a_scale_of_every_output():
    config = rollout.RolloutConfig(1, 1, behavior=models.quantize)
    policy = transformer(dtype="bfloat16")
    read = lambda policy: sum(
        x.nbytes for x in jax.tree.leaves(policy.for_decoding().stacks)
    )
    (layers, size) = (policy.config.num_layers, policy.config.hidden_size)
    matrices = policy.layers.projections.values()
    weights, outputs = (sum(f(x) for x in matrices) for f in (jnp.size, _outputs))
    norms = 2 * 2 * layers * size
    assert read(config.behavior_policy(policy)) == weights + 4 * outputs + norms
    assert read(policy) == 2 * weights + norms


def _outputs(matrix) -> int:
    return matrix.shape[0] * matrix.shape[-1]


SGD = optax.sgd(0.1)
SIZES = rollout.RolloutConfig(prompts=4, group=4, behavior=models.quantize)
STEP = grpojax.TrainStep(count_env(), SGD, rollout=SIZES)


@ft.cache
def stepped(**changes):
    """A state, the next one, and the step's metrics."""
    state = grpojax.init(transformer(), optimizer=SGD, key=jr.key(1))
    return state, *eqx.filter_jit(dataclasses.replace(STEP, **changes))(state)


def test_the_weights_in_full_precision_are_trained_with_the_sampler_s_log_probs():
    before, after, _ = stepped()
    chex.assert_trees_all_equal_shapes_and_dtypes(before.policy, after.policy)
    for name, matrix in after.policy.layers.projections.items():
        assert distance(matrix, before.policy.layers.projections[name]) > 0
    key = jr.fold_in(before.key, before.version)
    said = generate(
        models.quantize(before.policy), STEP.env, prompts=4, group=4, key=key
    )
    rewards = STEP.reward(said)

    def loss(policy):
        """GRPO's surrogate, written out: the ratio is to the quantized policy."""
        ratio = jnp.exp(teacher_forced(policy, said) - said.log_prob)
        advantage = algorithms.grpo().advantage(rewards)[:, :, None]
        clipped = jnp.clip(ratio, 0.8, 1.2) * advantage
        least = jnp.minimum(ratio * advantage, clipped)
        return -jnp.mean(masked.mean(least, said.sampled, axis=-1))

    gradient = eqx.filter_grad(loss)(before.policy)
    moved = jax.tree.map(
        lambda x, g: x - 0.1 * g, *map(_arrays, (before.policy, gradient))
    )
    chex.assert_trees_all_close(_arrays(after.policy), moved, atol=1e-5)


def _arrays(tree):
    return eqx.filter(tree, eqx.is_array)


@pytest.mark.slow
def test_the_gap_is_a_metric_of_every_step_whatever_the_ratio_is_taken_against():
    before, _, metrics = stepped()
    key = jr.fold_in(before.key, before.version)
    said = generate(
        models.quantize(before.policy), STEP.env, prompts=4, group=4, key=key
    )
    found = gap(before.policy, said)
    expected = {
        "sampling/sampling_logp_difference/mean": jnp.mean(found, where=said.sampled),
        "sampling/sampling_logp_difference/max": jnp.max(found),
    }
    corrected = dataclasses.replace(
        algorithms.grpo(),
        objective=dataclasses.replace(
            algorithms.grpo().objective, importance=update.Importance(level="token")
        ),
    )
    _, _, recomputed = stepped(update=update.UpdateConfig(recompute=True))
    _, _, weighted = stepped(algorithm=corrected)
    for name, value in expected.items():
        assert float(value) > 1e-3
        for found in (metrics, recomputed, weighted):
            assert float(found[name]) == pytest.approx(float(value), rel=1e-3)
    # The ratio corrects, nothing does, the importance weight does.
    assert float(metrics["ratio/max"]) > 1.01
    assert float(recomputed["ratio/max"]) == float(weighted["ratio/max"]) == 1
    assert float(weighted["sampling/importance_sampling_ratio/max"]) == pytest.approx(
        float(metrics["ratio/max"]), rel=1e-4
    )


def test_a_policy_that_cannot_be_quantized_is_refused():
    state = grpojax.init(UniformPolicy(50), optimizer=SGD, key=jr.key(1))
    with pytest.raises(TypeError, match="quantize. takes .* the class `UniformPolicy`"):
        grpojax.fit(state, STEP, steps=1)


def test_a_behavior_must_return_a_policy():
    config = rollout.RolloutConfig(1, 1, behavior=lambda policy: policy.layers)
    with pytest.raises(TypeError, match="return the policy that samples.* Layers from"):
        config.behavior_policy(transformer())
