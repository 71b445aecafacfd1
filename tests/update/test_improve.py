"""The laws of the update."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from grpojax import policy as policies, rollout, update
from grpojax.algorithms import dr_grpo, grpo
from grpojax.types import Prompt
from hypothesis import given, settings, strategies as st

from ..helpers import count_env, distance, same_bits, transformer


SGD = optax.sgd(1.0)
ENV = count_env()
POLICY = transformer()


def trajectory_of(policy=POLICY, env=ENV, prompts=4, group=4, seed=0):
    generate = eqx.filter_jit(rollout.generate)
    return generate(policy, env, prompts=prompts, group=group, key=jr.key(seed))


TRAJECTORY = trajectory_of()
ADVANTAGES = jr.normal(jr.key(1), (4, 4))


@eqx.filter_jit
def improve(trajectory=TRAJECTORY, advantages=ADVANTAGES, keep=None, **options):
    options = {"objective": grpo().objective, "optimizer": SGD, **options}
    policy = options.pop("policy", POLICY)
    opt_state = options["optimizer"].init(eqx.filter(policy, eqx.is_inexact_array))
    return update.improve(policy, opt_state, trajectory, advantages, keep, **options)


def relative(a, b, start=POLICY) -> float:
    """The largest difference of two updates, in units of the largest change."""
    return distance(a, b) / distance(a, start)


@pytest.mark.parametrize("objective", [grpo().objective, dr_grpo().objective])
def test_microbatches_add_up(objective):
    whole, _, measured = improve(objective=objective)
    for parts in (2, 4, 8, 16):
        some, _, again = improve(objective=objective, microbatches=parts)
        assert relative(whole, some) <= 1e-5
        for name, value in measured.items():
            np.testing.assert_allclose(again[name], value, rtol=1e-4, atol=1e-6)


def test_gradient_equals_the_formula_written_out():
    """One SGD step of `improve` against autodiff of a loss that shares no code."""

    lengths = [int(n) for n in TRAJECTORY.prompt.length]

    def loss(params):
        policy = eqx.combine(params, static)
        total = 0.0
        for p in range(2):
            for g in range(2):
                length = lengths[p]
                mask = TRAJECTORY.sampled[p, g]
                prompt = TRAJECTORY.prompt.tokens[p, :length]
                stream = jnp.concatenate([prompt, TRAJECTORY.tokens[p, g]])
                every = jax.nn.log_softmax(policies.logits(policy, stream) / 0.7)
                said = stream[length:]
                log_prob = every[jnp.arange(length - 1, len(stream) - 1), said]
                ratio = jnp.exp(log_prob - TRAJECTORY.log_prob[p, g])
                a = ADVANTAGES[p, g]
                value = jnp.minimum(ratio * a, jnp.clip(ratio, 0.9, 1.3) * a)
                total += jnp.sum(jnp.where(mask, value, 0)) / mask.sum() / 4
        return -total

    part = lambda tree: jax.tree.map(lambda x: x[:2, :2] if x.ndim > 1 else x, tree)
    small = dataclasses.replace(
        part(TRAJECTORY),
        prompt=jax.tree.map(lambda x: x[:2], TRAJECTORY.prompt),
    )
    params, static = eqx.partition(POLICY, eqx.is_inexact_array)
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    wanted = eqx.apply_updates(POLICY, jax.tree.map(jnp.negative, gradient))
    objective = grpo(low=0.1, high=0.3).objective
    got, _, metrics = improve(
        small, ADVANTAGES[:2, :2], objective=objective, temperature=0.7
    )
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert relative(wanted, got) <= 1e-4


def test_nothing_outside_sampled_matters():
    """Tokens, log-probabilities and versions outside the mask may be anything."""
    noise = jr.randint(jr.key(2), TRAJECTORY.tokens.shape, 0, 50)
    after = ~TRAJECTORY.sampled
    other = dataclasses.replace(
        TRAJECTORY,
        tokens=jnp.where(after, noise, TRAJECTORY.tokens),
        log_prob=jnp.where(after, -3.0, TRAJECTORY.log_prob),
    )
    assert after.any()
    assert same_bits(improve()[0], improve(other)[0])


def test_extra_padding_changes_nothing():
    """Neither a longer prompt width nor a longer horizon: the trap of padded widths."""
    wider = dataclasses.replace(
        TRAJECTORY,
        prompt=Prompt(
            jnp.pad(TRAJECTORY.prompt.tokens, ((0, 0), (0, 5)), constant_values=9),
            TRAJECTORY.prompt.length,
        ),
        **{
            name: jnp.pad(getattr(TRAJECTORY, name), ((0, 0), (0, 0), (0, 7)))
            for name in ("tokens", "sampled", "log_prob", "version")
        },
    )
    for objective in (grpo().objective, dr_grpo(length=12).objective):
        plain, _, _ = improve(objective=objective)
        padded, _, _ = improve(wider, objective=objective)
        assert relative(plain, padded) <= 1e-5


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6)),
)
def test_gradient_is_zero_outside_the_mask(seed, shape):
    keys = jr.split(jr.key(seed), 4)
    mask = jr.bernoulli(keys[0], 0.6, shape)
    old, log_prob = (-jr.gamma(k, 1.5, shape) for k in keys[1:3])
    advantage = jr.normal(keys[3], (*shape[:2], 1))
    for objective in (grpo().objective, dr_grpo().objective):
        frozen = objective.prepare(update.Frozen(advantage, mask, old))

        def loss(log_prob, objective=objective, frozen=frozen):
            return objective(update.Scores(log_prob, old, frozen))[0]

        value, gradient = jax.value_and_grad(loss)(log_prob)
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
        assert not gradient[~mask].any()


@pytest.mark.parametrize(
    "ratio, advantage, flows",
    [
        (1.5, 1.0, False),  # Too likely already, and praised: stop.
        (1.5, -1.0, True),  # Too likely, and blamed: go on.
        (0.5, -1.0, False),
        (0.5, 1.0, True),
        (1.1, 1.0, True),
        (0.9, -1.0, True),
    ],
)
def test_clipping_stops_the_gradient_on_the_right_side_only(ratio, advantage, flows):
    mask = jnp.ones((1, 1), bool)
    objective = update.Objective(surrogate=update.Clip(0.2, 0.2))
    frozen = update.Frozen(jnp.full((1, 1), advantage), mask, jnp.zeros((1, 1)))
    frozen = objective.prepare(frozen)

    def loss(log_prob):
        return objective(update.Scores(log_prob, log_prob, frozen))

    gradient, measured = jax.grad(loss, has_aux=True)(jnp.log(jnp.full((1, 1), ratio)))
    assert bool(gradient.any()) == flows
    clipped = measured["clip_low"] + measured["clip_high"]
    assert bool(clipped.any()) != flows


def test_a_row_that_is_not_kept_does_not_exist():
    keep = jnp.ones((4, 4), bool).at[1, 2].set(False)
    dropped = dataclasses.replace(
        TRAJECTORY, sampled=TRAJECTORY.sampled & keep[..., None]
    )
    a, _, metrics = improve(keep=keep)
    b, _, _ = improve(dropped)
    assert same_bits(a, b) and not same_bits(a, improve()[0])
    assert jnp.isfinite(metrics["loss"])
    nobody, _, metrics = improve(keep=jnp.zeros((4, 4), bool))
    assert same_bits(nobody, POLICY)
    assert all(bool(jnp.isfinite(x)) for x in metrics.values())


def test_two_epochs_leave_ratio_one():
    _, _, once = improve(optimizer=optax.adam(0.03))
    for recompute in (False, True):
        moved, _, twice = improve(
            optimizer=optax.adam(0.03), epochs=2, minibatches=2, recompute=recompute
        )
        assert float(twice["ratio/max"]) > 1.05 > float(once["ratio/max"])
        assert float(twice["clip_ratio/region_mean"]) > 0
        assert once["clip_ratio/region_mean"] == 0
        gap = twice["sampling/sampling_logp_difference/max"]
        assert float(gap) <= 1e-5  # Of the first update, before the policy moved.


def test_recomputed_log_probs_equal_the_samplers():
    recorded, _, _ = improve(epochs=2)
    recomputed, _, _ = improve(epochs=2, recompute=True)
    assert relative(recorded, recomputed) <= 1e-3
    # With one update, old is the current policy and the ratio exactly 1.
    _, _, metrics = improve(recompute=True)
    assert metrics["ratio/max"] == metrics["ratio/min"] == 1


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted():
    bad = ADVANTAGES.at[0, 0].set(jnp.inf)
    optimizer = optax.adam(1e-3)
    start = optimizer.init(eqx.filter(POLICY, eqx.is_inexact_array))
    policy, opt_state, metrics = improve(advantages=bad, optimizer=optimizer, epochs=3)
    assert same_bits(policy, POLICY) and same_bits(opt_state, start)
    assert metrics["skipped_updates"] == 3
    assert improve()[2]["skipped_updates"] == 0


def test_schedules_count_optimizer_updates():
    """The trap of a horizon in steps when each step takes several updates."""
    schedule = optax.piecewise_constant_schedule(1.0, {4: 0.0})
    kept, _, _ = improve(optimizer=optax.sgd(schedule), epochs=2, minibatches=2)
    none, _, _ = improve(optimizer=optax.sgd(1.0), epochs=2, minibatches=2)
    assert same_bits(kept, none)


def test_kl_enters_the_loss():
    """The trap of a coefficient that is configured and never used."""
    reference = transformer(seed=5)
    _, _, without = improve(reference=reference)
    moved, _, metrics = improve(reference=reference, objective=grpo(beta=0.5).objective)
    assert float(metrics["kl"]) > 0 and without["kl"] == 0
    np.testing.assert_allclose(
        metrics["loss"] - without["loss"], 0.5 * _row_mean_kl(reference), rtol=1e-4
    )
    assert not same_bits(moved, improve()[0])
    with pytest.raises(ValueError, match="needs a reference policy"):
        improve(objective=grpo(beta=0.5).objective)


def _row_mean_kl(reference) -> float:
    score = eqx.filter_jit(update.score)
    here, _ = score(POLICY, TRAJECTORY.prompt, TRAJECTORY.tokens)
    there, _ = score(reference, TRAJECTORY.prompt, TRAJECTORY.tokens)
    x, mask = np.asarray(there - here), np.asarray(TRAJECTORY.sampled)
    k3 = np.where(mask, np.exp(x) - x - 1, 0)
    return (k3.sum(-1) / mask.sum(-1)).mean()


def test_scores_do_not_depend_on_chunks():
    score = eqx.filter_jit(update.score)
    whole = score(POLICY, TRAJECTORY.prompt, TRAJECTORY.tokens)
    for chunk in (1, 7, 1000):
        some = score(POLICY, TRAJECTORY.prompt, TRAJECTORY.tokens, chunk=chunk)
        for a, b in zip(whole, some, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(microbatches=3), "microbatches=3 for 4 prompts x 4 samples"),
        (dict(minibatches=0), "minibatches must be a positive integer. Received 0"),
        (dict(minibatches=4, microbatches=8), "what a minibatch holds"),
        (dict(epochs=0), "epochs must be at least 1"),
    ],
)
def test_parts_that_do_not_divide_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        improve(**options)
