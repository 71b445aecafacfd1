"""Adapters: what they compute, what they leave alone, and what is trained."""

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
from grpojax import models, sharding, update
from grpojax.models import PROJECTIONS
from grpojax.policy import logits
from grpojax.testing import check_policy
from grpojax.types import Axes
from tests.helpers import (
    CONFIGS,
    count_env,
    distance,
    learned,
    mostly_slow,
    transformer,
)


TOKENS = jr.randint(jr.key(0), (12,), 0, 50)
SOME = ("query", "value", "down")
all_logits = eqx.filter_jit(logits)
lora = ft.partial(models.lora, rank=4, alpha=8.0, key=jr.key(1))


@pytest.fixture(params=mostly_slow(CONFIGS, ["qwen3"]))
def policy(request):
    return transformer(request.param)


@pytest.mark.parametrize("projections", [PROJECTIONS, SOME])
def test_a_fresh_adapter_changes_no_bit(policy, projections):
    adapted = lora(policy, projections)
    chex.assert_trees_all_equal(all_logits(adapted, TOKENS), all_logits(policy, TOKENS))
    chex.assert_trees_all_equal(models.without_adapters(adapted), policy)
    assert set(models.PROJECTIONS) - set(projections) == {
        name for name in PROJECTIONS if eqx.is_array(vars(adapted.layers)[name])
    }


def test_an_adapter_is_drawn_as_peft_draws_it():
    policy = transformer()
    both, one = lora(policy, ("query", "down")), lora(policy, ("down",))
    chex.assert_trees_all_equal(both.layers.down, one.layers.down)
    a, b = one.layers.down.a, one.layers.down.b
    assert a.shape == (2, 48, 4) and b.shape == (2, 4, 32) and not b.any()
    assert a.dtype == b.dtype == jnp.float32
    bound = 48**-0.5
    assert 0.9 * bound < abs(a).max() <= bound and abs(a.mean()) < bound / 5
    assert abs(a[0] - a[1]).max() > bound


def test_what_is_learned_is_a_product_of_two(policy):
    """Against the sum, written out by NumPy in float64."""
    adapted = learned(lora(policy, SOME))
    wide = lambda x: np.asarray(x, np.float64)
    matrices = {}
    for name in SOME:
        x = vars(adapted.layers)[name]
        matrices[name] = wide(x.base) + 8 / 4 * wide(x.a) @ wide(x.b)
    merged = models.merge(adapted)
    for name, matrix in matrices.items():
        np.testing.assert_allclose(vars(merged.layers)[name], matrix, atol=1e-6)
    narrow = {name: jnp.asarray(x, jnp.float32) for name, x in matrices.items()}
    layers = dataclasses.replace(policy.layers, **narrow)
    summed = eqx.tree_at(lambda p: p.layers, policy, layers)
    expected, seen = all_logits(summed, TOKENS), all_logits(adapted, TOKENS)
    assert distance(seen, all_logits(policy, TOKENS)) > 0.1
    assert distance(seen, expected) < 1e-5
    assert distance(all_logits(merged, TOKENS), expected) < 1e-5


def test_eight_bits_are_the_nearest_of_255_values(policy):
    coarse = models.quantize(policy)
    for name in PROJECTIONS:
        weight = np.asarray(vars(policy.layers)[name], np.float64)
        matrix = vars(coarse.layers)[name]
        scale = np.abs(weight).max(axis=1) / 127
        np.testing.assert_allclose(matrix.scale, scale, rtol=1e-6)
        assert matrix.values.dtype == jnp.int8
        assert abs(np.asarray(matrix.values, int)).max() == 127
        exact = np.asarray(matrix.values, np.float64) * scale[:, None]
        assert (abs(exact - weight) <= scale[:, None] / 2 * (1 + 1e-4)).all()
    chex.assert_trees_all_equal(coarse.embedding, policy.embedding)
    plain = models.merge(coarse)
    assert all(eqx.is_array(vars(plain.layers)[name]) for name in PROJECTIONS)
    assert distance(all_logits(coarse, TOKENS), all_logits(plain, TOKENS)) < 1e-5
    assert 0 < distance(all_logits(coarse, TOKENS), all_logits(policy, TOKENS)) < 0.3
    chex.assert_trees_all_equal(models.quantize(coarse), coarse)


def test_a_column_of_zeros_stays_zero():
    policy = transformer()
    policy = eqx.tree_at(
        lambda p: p.layers.up, policy, policy.layers.up.at[:, :, 3].set(0)
    )
    plain = models.merge(models.quantize(policy))
    assert not plain.layers.up[:, :, 3].any() and plain.layers.up[:, :, 4].all()


@pytest.mark.parametrize(
    "family, bits",
    mostly_slow([("llama", "float"), ("qwen2", "int8")], [("qwen2", "int8")]),
)
def test_an_adapted_policy_keeps_the_laws(family, bits):
    policy = transformer(family)
    adapted = learned(lora(policy if bits == "float" else models.quantize(policy)))
    check_policy(adapted, key=jr.key(3), length=6)
    # Quantized after it was adapted, too, with the adapters left as they are.
    chex.assert_trees_all_equal(
        models.quantize(adapted), learned(lora(models.quantize(policy)))
    )


def test_the_sampler_is_the_trainer_over_16_bits():
    """Adapters are not merged to decode: what they add is below the base's rounding."""
    policy = models.Transformer(
        CONFIGS["llama"], dtype="bfloat16", compute_dtype="float32", key=jr.key(0)
    )
    adapted = learned(lora(policy), size=1e-3)
    generate = eqx.filter_jit(grpojax.rollout.generate)
    config = grpojax.RolloutConfig(prompts=2, group=2)
    said = generate(adapted, count_env(), config, key=jr.key(5))
    score = eqx.filter_jit(update.log_probs)
    gap = lambda policy: jnp.where(
        said.sampled, score(policy, said.prompt, said.tokens)[0] - said.log_prob, 0
    )
    assert abs(gap(adapted)).max() <= 1e-5
    merged = models.merge(adapted)
    assert not eqx.tree_equal(merged, models.without_adapters(adapted))
    assert abs(gap(merged)).max() > 1e-3


ENV = count_env()
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
ROLLOUT = grpojax.RolloutConfig(prompts=3, group=4, slots=5)
FIXED = dict(env=ENV, optimizer=OPTIMIZER, rollout=ROLLOUT)


@pytest.mark.slow
def test_three_steps_leave_the_base_as_it_was():
    """Bit for bit, although the step takes over its memory; and the reference is it."""
    base = transformer()
    kept = jax.tree.map(np.array, base)
    adapted = lora(base, SOME)
    first = jax.tree.map(np.array, adapted)
    state = grpojax.init(
        adapted,
        optimizer=OPTIMIZER,
        reference=models.without_adapters,
        key=jr.key(0),
    )
    assert jax.tree.leaves(state.reference) == []
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(state))
    sizes = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    trained = sizes(adapted) - sizes(base)
    # Two moments of Adam and the two counts of its steps, at most.
    assert 2 * trained <= sizes(state.opt_state) <= 2 * trained + 2
    algorithm = grpojax.algorithms.grpo(beta=0.1)
    step = ft.partial(grpojax.train_step, **FIXED, algorithm=algorithm)
    step, divergence = jax.jit(step, donate_argnums=0), []
    for _ in range(3):
        state, metrics = step(state)
        divergence.append(float(metrics["kl"]))
    chex.assert_trees_all_equal(models.without_adapters(state.policy), kept)
    for name in SOME:
        before, after = vars(first.layers)[name], vars(state.policy.layers)[name]
        assert distance(after.b, before.b) > 1e-3
        assert distance(after.a, before.a) > 1e-3
    # The first policy is its own base.
    assert divergence[0] == 0 and divergence[2] > 1e-4


def gradient(policy, said, rows):
    """What one update follows: plain descent at a rate of 1 moves by minus it."""
    optimizer = optax.sgd(1.0)
    params = eqx.filter(policy, policy.trainable())
    moved, _, _ = eqx.filter_jit(grpojax.update.improve)(
        policy,
        optimizer.init(params),
        said,
        rows,
        objective=grpojax.algorithms.grpo().objective,
        optimizer=optimizer,
    )
    moved = eqx.filter(moved, policy.trainable())
    return jax.tree.map(lambda x, y: np.asarray(x - y, np.float64), params, moved)


@pytest.mark.slow
def test_the_gradient_is_the_weights_projected():
    """dA = s dW Bᵀ and dB = s Aᵀ dW, with dW that of a model with merged weights."""
    adapted = learned(lora(models.quantize(transformer("qwen2", sharpen=5.0))))
    generate = eqx.filter_jit(grpojax.rollout.generate)
    config = grpojax.RolloutConfig(prompts=2, group=3)
    said = generate(adapted, ENV, config, key=jr.key(5))
    rows = jr.normal(jr.key(6), (2, 3))
    mine = gradient(adapted, said, rows)
    whole = gradient(models.merge(adapted), said, rows)
    assert mine.embedding is None and mine.layers.query_bias is None
    for name in PROJECTIONS:
        adapter, of_weight = vars(adapted.layers)[name], vars(whole.layers)[name]
        a, b = (np.asarray(x, np.float64) for x in (adapter.a, adapter.b))
        found = vars(mine.layers)[name]
        turned = lambda x: np.swapaxes(x, 1, 2)
        size = abs(of_weight).max()
        assert size > 1e-3
        np.testing.assert_allclose(found.a, 2 * of_weight @ turned(b), atol=2e-4 * size)
        np.testing.assert_allclose(found.b, 2 * turned(a) @ of_weight, atol=2e-4 * size)


def test_nothing_is_computed_for_what_is_frozen():
    """Of three products of a weight, forward, for x and for itself, two are left."""
    base = transformer()
    generate = ft.partial(grpojax.rollout.generate, key=jr.key(5))
    config = grpojax.RolloutConfig(prompts=2, group=2)
    said = eqx.filter_eval_shape(generate, base, ENV, config)

    def operations(policy):
        params, rest = eqx.partition(policy, policy.trainable())
        state = optax.sgd(1.0).init(params)

        def improve(params, said):
            return eqx.filter(
                grpojax.update.improve(
                    eqx.combine(params, rest),
                    state,
                    said,
                    jnp.ones((2, 2)),
                    objective=grpojax.algorithms.grpo().objective,
                    optimizer=optax.sgd(1.0),
                ),
                eqx.is_array,
            )

        return str(jax.make_jaxpr(improve)(params, said)).count("dot_general")

    plain, frozen = (operations(p) for p in (base, lora(base, ("down",), rank=2)))
    # For seven matrices and the head, less the two of an adapter.
    assert frozen <= plain - 6


@pytest.mark.slow
def test_a_sweep_over_adapters_shares_the_base():
    """The lanes of a `vmap` have adapters of their own and one base among them."""
    adapted = lora(transformer(), SOME)
    params, base = eqx.partition(adapted, adapted.trainable())
    lanes = [learned(adapted, seed=seed) for seed in (1, 2)]
    lanes = [eqx.filter(lane, lane.trainable()) for lane in lanes]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *lanes)

    def run(params, key):
        state = grpojax.init(eqx.combine(params, base), optimizer=OPTIMIZER, key=key)
        state, metrics = grpojax.train_step(state, **FIXED)
        trained = eqx.filter(state.policy, state.policy.trainable())
        return trained, metrics["reward"]

    keys = jr.split(jr.key(0))
    together = jax.jit(jax.vmap(run))
    trained, rewards = together(stacked, keys)
    alone, reward = jax.jit(run)(lanes[1], keys[1])
    assert distance(alone, jax.tree.map(lambda x: x[1], trained)) < 1e-4
    np.testing.assert_allclose(rewards[1], reward, atol=1e-5)
    # No array of the program holds a base for each lane.
    shapes = str(together.trace(stacked, keys).jaxpr)
    assert "f32[2,32,48]" in shapes and "f32[2,2,32,48]" not in shapes


def test_names_of_axes(policy):
    base = policy.logical_axes().layers
    adapted = lora(policy if policy.config.qk_norm else models.quantize(policy))
    names = adapted.logical_axes()
    is_axes = lambda x: isinstance(x, Axes)
    for leaf, axes in zip(
        jax.tree.leaves(adapted), jax.tree.leaves(names, is_leaf=is_axes), strict=True
    ):
        assert leaf.ndim == len(axes.names) == len(axes.pieces)
    heads, layers = policy.config.num_heads, policy.config.num_layers
    assert names.layers.query.b == (("layer", None, "heads"), (layers, 1, heads))
    assert names.layers.output.a == (("layer", "heads", None), (layers, heads, 1))
    assert names.layers.gate.a.names == ("layer", "hidden", None)
    assert names.layers.output.b.names == ("layer", None, "hidden")
    if policy.config.qk_norm:
        assert names.layers.down.base == base.down
    else:
        assert names.layers.down.base.values == base.down
        assert names.layers.down.base.scale.names == ("layer", "hidden")


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
@pytest.mark.slow
def test_a_step_on_a_mesh_is_that_of_one_device():
    """Adapters and 8 bits are cut as the weights that they stand for."""
    adapted = learned(lora(models.quantize(transformer()), SOME))
    state = grpojax.init(
        adapted,
        optimizer=OPTIMIZER,
        reference=models.without_adapters,
        key=jr.key(0),
    )
    fixed = FIXED | dict(prompts=4, slots=None)
    fixed |= dict(algorithm=grpojax.algorithms.grpo(beta=0.1))

    @jax.jit
    def steps(state):
        return grpojax.train(state, steps=2, **fixed)

    alone, metrics = steps(state)
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    with jax.set_mesh(mesh):
        placed, found = steps(sharding.place(state, mesh))
    values = placed.policy.layers.down.base.values
    assert tuple(values.sharding.spec) == (None, "tensor", "fsdp")
    assert placed.opt_state[1][0].mu.layers.query.a.sharding.spec[1] == "fsdp"
    assert distance(placed.policy, alone.policy) < 1e-5
    np.testing.assert_allclose(found["kl"], metrics["kl"], atol=1e-5)
    base = models.without_adapters
    chex.assert_trees_all_equal(jax.device_get(base(placed.policy)), base(adapted))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(rank=0), "rank of at least 1"),
        (dict(alpha=0.0), "positive alpha"),
        (dict(projections=()), "Received none"),
        (dict(projections=("querry",)), "did you mean 'query'"),
    ],
)
def test_invalid_adapters_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        lora(transformer(), **change)


def test_a_projection_has_one_adapter():
    once = lora(transformer(), ("query", "key"), rank=3)
    with pytest.raises(ValueError, match="`key` has one of rank 3 already"):
        lora(once, ("key", "up"))
    twice = lora(once, ("up",))
    assert not isinstance(twice.layers.gate, models.LowRankMatrix)
    assert (twice.layers.key.rank, twice.layers.up.rank) == (3, 4)


def test_a_frozen_policy_is_not_trained():
    coarse = models.quantize(transformer())
    assert not any(jax.tree.leaves(coarse.trainable()))
    with pytest.raises(ValueError, match="quantized weights need adapters"):
        grpojax.init(coarse, optimizer=OPTIMIZER, key=jr.key(0))


def test_another_policys_optimizer_state_is_refused():
    base = transformer()
    adapted = lora(base)
    state = grpojax.init(base, optimizer=OPTIMIZER, key=jr.key(0))
    state = eqx.tree_at(lambda s: s.policy, state, adapted)
    with pytest.raises(ValueError, match="over the trainable arrays"):
        eqx.filter_eval_shape(grpojax.train_step, state, **FIXED)
