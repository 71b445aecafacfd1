"""Laws of the update."""

import dataclasses

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from grpojax import policy as policies, update
from grpojax.algorithms import dr_grpo, grpo, gspo
from grpojax.types import Prompt

from ..helpers import distance, mostly_slow, transformer
from .doubles import Bigram, bigram, log_probs, random_trajectory


SGD = optax.sgd(1.0)
POLICY = bigram()
TRAJECTORY = random_trajectory(POLICY)
STALE = random_trajectory(POLICY, gap=0.4)
ADVANTAGES = jr.normal(jr.key(1), (4, 4))


@eqx.filter_jit
def improve(
    trajectory=TRAJECTORY,
    advantages=ADVANTAGES,
    keep=None,
    *,
    policy=POLICY,
    objective=grpo().objective,
    optimizer=SGD,
    reference=None,
    **config,
):
    """`update.improve` with defaults; `config` are the fields of `UpdateConfig`."""
    return update.improve(
        policy,
        optimizer.init(eqx.filter(policy, eqx.is_inexact_array)),
        trajectory,
        advantages,
        keep,
        objective=objective,
        optimizer=optimizer,
        reference=reference,
        config=update.UpdateConfig(**config),
    )


def relative(a, b, start=POLICY) -> float:
    """The largest difference of two updates, in units of the largest change."""
    return distance(a, b) / distance(a, start)


CORRECTED = update.Objective(
    weight=update.prompt_mean,
    entropy_filter=update.TopEntropy(0.5),
    off_policy_filter=update.OffPolicySequenceMask(0.1),
    entropy_bonus=0.1,
    importance=update.Importance(1.2, level="token", outside="truncate"),
)


@pytest.mark.laws
@pytest.mark.parametrize(
    "objective",
    [pytest.param(grpo().objective, marks=pytest.mark.slow), CORRECTED],
)
def test_microbatches_add_up(objective):
    """The traps of averaging twice, and of keeping the last microbatch's gradient."""
    full, _, measured = improve(STALE, objective=objective)
    assert distance(full, POLICY) > 0.01
    for microbatches in (2, 3, 8):
        some, _, again = improve(STALE, objective=objective, microbatches=microbatches)
        np.testing.assert_allclose(some.table, full.table, rtol=1e-6, atol=1e-6)
        assert relative(full, some) <= 1e-5
        assert again.keys() == measured.keys()
        for name, value in measured.items():
            np.testing.assert_allclose(again[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "size, loops", [(dict(), 1), (dict(tokens=2), 2), (dict(microbatches=8), 1)]
)
def test_a_loss_is_traced_once_for_each_loop(size, loops):
    """Tracing is a good part of a start.

    Once more for the shapes of its metrics. Rows that may be longer than a microbatch
    have a loop of their own.
    """
    traced = []

    def ratio(inputs):
        traced.append(inputs)
        return update.token_ratio(inputs)

    improve(objective=update.Objective(ratio), **size)
    assert len(traced) == 1 + loops


@pytest.mark.laws
def test_gradient_equals_the_formula_written_out():
    """One SGD step against autodiff of a loss that shares no code.

    The traps of dividing log-probabilities, not logits, by the temperature, and of a
    prompt that is read at the wrong positions.
    """
    start, lengths = transformer(), (2, 3)
    sampled = random_trajectory(bigram(vocab=50), prompts=2, group=2, temperature=0.7)
    prompt = Prompt(sampled.prompt.tokens, jnp.asarray(lengths))
    sampled = dataclasses.replace(sampled, prompt=prompt)
    params, static = eqx.partition(start, eqx.is_inexact_array)

    def value_of_row(policy, prompt, tokens, mask, old, a):
        stream = jnp.concatenate([prompt, tokens])
        every = jax.nn.log_softmax(policies.logits(policy, stream) / 0.7)
        log_prob = every[jnp.arange(len(prompt) - 1, len(stream) - 1), tokens]
        ratio = jnp.exp(log_prob - old)
        value = jnp.minimum(ratio * a, jnp.clip(ratio, 0.9, 1.3) * a)
        count = jnp.maximum(jnp.sum(mask, dtype=value.dtype), 1)
        return jnp.sum(jnp.where(mask, value, 0)) / count

    def loss(params):
        policy, total = eqx.combine(params, static), 0.0
        for p, length in enumerate(lengths):
            prompt = sampled.prompt.tokens[p, :length]
            row = lambda *x, prompt=prompt: value_of_row(policy, prompt, *x)
            rows = sampled.tokens[p], sampled.sampled[p], sampled.log_prob[p]
            total += jnp.sum(jax.vmap(row)(*rows, ADVANTAGES[p, :2])) / 4
        return -total

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    wanted = eqx.apply_updates(start, jax.tree.map(jnp.negative, gradient))
    got, _, metrics = improve(
        sampled,
        ADVANTAGES[:2, :2],
        policy=start,
        objective=grpo(low=0.1, high=0.3).objective,
        microbatches=4,
    )
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert relative(wanted, got, start) <= 1e-4


LATE = update.Importance(1.5, level="token", outside="truncate")


@pytest.mark.parametrize("recompute", [None, False, True])
@pytest.mark.parametrize("share", mostly_slow([None, 0.4], [0.4]))
@pytest.mark.parametrize("importance", [None, LATE])
def test_ratios_are_between_the_right_policies(recompute, share, importance):
    """The three policies: behavior, old (the proximal one) and current."""
    objective = update.Objective(
        importance=importance,
        entropy_filter=None if share is None else update.TopEntropy(share),
    )
    options = dict(objective=objective, recompute=recompute)
    if importance is not None and recompute is False:
        with pytest.raises(ValueError, match="Received recompute=False"):
            improve(STALE, **options)
        return

    def loss(table):
        log_prob, entropy = log_probs(table, STALE)
        fresh = jax.lax.stop_gradient(log_prob)
        mask, a = STALE.sampled, ADVANTAGES[..., None]
        # By default as the objective needs: an importance correction implies it.
        needed = importance is not None if recompute is None else recompute
        old = fresh if needed else STALE.log_prob
        ratio = jnp.exp(log_prob - old)
        value = jnp.minimum(ratio * a, jnp.clip(ratio, 0.8, 1.2) * a)
        if importance is not None:
            value = value * jnp.clip(jnp.exp(fresh - STALE.log_prob), 0, 1.5)
        if share is not None:
            threshold = jnp.nanquantile(jnp.where(mask, entropy, jnp.nan), 1 - share)
            value = jnp.where(entropy >= threshold, value, 0)
        return -jnp.sum(jnp.where(mask, value, 0)) / jnp.sum(mask, dtype=value.dtype)

    value, gradient = jax.value_and_grad(loss)(POLICY.table)
    got, _, metrics = improve(STALE, **options)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert relative(Bigram(POLICY.table - gradient), got) <= 1e-4
    if importance is not None:
        weights = jnp.exp(log_probs(POLICY.table, STALE)[0] - STALE.log_prob)
        weights = np.clip(weights, 0, 1.5)[STALE.sampled]
        name = "sampling/importance_sampling_ratio"
        for kind in ("mean", "min", "max"):
            wanted = getattr(weights, kind)()
            np.testing.assert_allclose(metrics[f"{name}/{kind}"], wanted, rtol=1e-5)


def test_later_updates_keep_the_policy_before_the_first_one():
    """Two epochs of `improve` are two calls with one old policy."""
    objective = update.Objective(importance=LATE)
    both, _, _ = improve(STALE, objective=objective, epochs=2)
    first, _, _ = improve(STALE, objective=objective)
    fresh = jnp.where(STALE.sampled, log_probs(POLICY.table, STALE)[0], 0)
    importance = jnp.clip(jnp.exp(fresh - STALE.log_prob), 0, 1.5)
    batch = update.Batch(ADVANTAGES[..., None], STALE.sampled, fresh)
    weights = objective.loss_weights(batch)
    weights = dataclasses.replace(weights, importance=importance)

    def loss(table):
        inputs = update.LossInputs(*log_probs(table, STALE), batch, weights)
        return objective(inputs)[0]

    second = Bigram(first.table - jax.grad(loss)(first.table))
    assert relative(second, both) <= 1e-4


@pytest.mark.laws
def test_nothing_outside_sampled_matters():
    """Tokens, log-probabilities and versions outside the mask may be anything."""
    noise = jr.randint(jr.key(2), TRAJECTORY.tokens.shape, 0, POLICY.vocab_size)
    after = ~TRAJECTORY.sampled
    other = dataclasses.replace(
        TRAJECTORY,
        tokens=jnp.where(after, noise, TRAJECTORY.tokens),
        log_prob=jnp.where(after, jnp.nan, TRAJECTORY.log_prob),
    )
    assert after.any()
    chex.assert_trees_all_equal(improve()[0], improve(other)[0])


@pytest.mark.laws
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
    for objective in (grpo().objective, dr_grpo(length=7).objective):
        plain, _, _ = improve(objective=objective)
        padded, _, _ = improve(wider, objective=objective)
        assert relative(plain, padded) <= 1e-5
    # What the trap would do: a divisor that follows the width.
    plain, _, _ = improve(objective=dr_grpo().objective)
    padded, _, _ = improve(wider, objective=dr_grpo().objective)
    assert relative(plain, padded) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.laws
def test_a_row_that_is_not_kept_does_not_exist():
    keep = jnp.ones((4, 4), bool).at[1, 2].set(False)
    dropped = dataclasses.replace(
        TRAJECTORY, sampled=TRAJECTORY.sampled & keep[..., None]
    )
    nan = ADVANTAGES.at[1, 2].set(jnp.nan)
    kept, _, metrics = improve(advantages=nan, keep=keep)
    absent, _, _ = improve(dropped)
    chex.assert_trees_all_equal(kept, absent)
    assert not eqx.tree_equal(kept, improve()[0])
    assert jnp.isfinite(metrics["loss"])
    none, _, metrics = improve(keep=jnp.zeros((4, 4), bool))
    chex.assert_trees_all_equal(none, POLICY)
    chex.assert_tree_all_finite(metrics)


def test_an_empty_row_leaves_every_number_finite():
    """The trap of a completion of no tokens, whose mean entropy is 0/0."""
    assert not TRAJECTORY.sampled[0, 1].any()
    policy, _, metrics = improve(STALE, objective=CORRECTED)
    chex.assert_tree_all_finite(metrics)
    _, entropy = log_probs(POLICY.table, TRAJECTORY)
    np.testing.assert_allclose(
        metrics["entropy"], entropy[TRAJECTORY.sampled].mean(), 1e-5
    )
    assert jnp.isfinite(policy.table).all()


def test_two_epochs_leave_ratio_one():
    _, _, once = improve(optimizer=optax.adam(0.1))
    for recompute in (False, True):
        moved, _, twice = improve(
            optimizer=optax.adam(0.1), epochs=2, minibatches=2, recompute=recompute
        )
        assert float(twice["ratio/max"]) > 1.05 > float(once["ratio/max"])
        assert float(twice["clip_ratio/region_mean"]) > 0
        assert once["clip_ratio/region_mean"] == 0
        gap = twice["sampling/sampling_logp_difference/max"]
        assert float(gap) <= 1e-5  # Of the first update, before the policy moved.


@pytest.mark.laws
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
    chex.assert_trees_all_equal((policy, opt_state), (POLICY, start))
    assert metrics["skipped_updates"] == 3
    assert improve()[2]["skipped_updates"] == 0


def test_schedules_count_optimizer_updates():
    """The trap of a horizon in steps when each step takes several updates."""
    schedule = optax.piecewise_constant_schedule(1.0, {4: 0.0})
    kept, _, metrics = improve(optimizer=optax.sgd(schedule), epochs=2, minibatches=2)
    none, _, _ = improve(optimizer=optax.sgd(1.0), epochs=2, minibatches=2)
    chex.assert_trees_all_equal(kept, none)
    assert "learning_rate" not in metrics  # The state does not record it.


def test_the_learning_rate_is_that_of_the_last_update():
    schedule = lambda count: 0.5 ** count.astype(jnp.float32)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.inject_hyperparams(optax.adam)(learning_rate=schedule),
    )
    _, _, metrics = improve(optimizer=optimizer, epochs=2, minibatches=2)
    assert metrics["learning_rate"] == 0.5**3


def test_kl_enters_the_loss():
    """The trap of a coefficient that is configured and never used."""
    reference = bigram(seed=5)
    _, _, without = improve(reference=reference)
    moved, _, metrics = improve(reference=reference, objective=grpo(beta=0.5).objective)
    x = (
        log_probs(reference.table, TRAJECTORY)[0]
        - log_probs(POLICY.table, TRAJECTORY)[0]
    )
    x, mask = np.asarray(x), np.asarray(TRAJECTORY.sampled)
    k3 = np.where(mask, np.exp(x) - x - 1, 0)
    np.testing.assert_allclose(metrics["kl"], k3.sum() / mask.sum(), rtol=1e-5)
    of_rows = (k3.sum(-1) / np.maximum(mask.sum(-1), 1)).mean()
    np.testing.assert_allclose(
        metrics["loss"] - without["loss"], 0.5 * of_rows, rtol=1e-4
    )
    assert "kl" not in without
    assert not eqx.tree_equal(moved, improve()[0])
    with pytest.raises(ValueError, match="needs the log-probabilities of a reference"):
        improve(objective=grpo(beta=0.5).objective)


def test_kl_enters_the_reward():
    reference = bigram(seed=5)
    gap = (
        log_probs(POLICY.table, TRAJECTORY)[0]
        - log_probs(reference.table, TRAJECTORY)[0]
    )
    wanted = np.where(TRAJECTORY.sampled, gap, 0).sum(-1)
    for tokens in (None, 2):
        rewards = update.KLReward(reference, tokens=tokens)(TRAJECTORY)
        assert list(rewards.components) == ["kl"]
        np.testing.assert_allclose(rewards.total, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="tokens must be a positive integer"):
        update.KLReward(reference, tokens=0)


def test_gspo_has_one_ratio_a_row():
    moved, _, metrics = improve(STALE, objective=gspo(low=0.05, high=0.05).objective)
    gap = log_probs(POLICY.table, STALE)[0] - STALE.log_prob
    count = np.maximum(STALE.sampled.sum(-1), 1)
    ratio = np.exp(np.where(STALE.sampled, gap, 0).sum(-1) / count)
    some = STALE.sampled.any(-1)
    np.testing.assert_allclose(metrics["ratio/max"], ratio[some].max(), rtol=1e-5)
    np.testing.assert_allclose(metrics["ratio/min"], ratio[some].min(), rtol=1e-5)


def test_log_probs_do_not_depend_on_chunks():
    measure = eqx.filter_jit(update.log_probs)
    for chunk in (None, 1, 7, 1000):
        some = measure(POLICY, TRAJECTORY.prompt, TRAJECTORY.tokens, chunk=chunk)
        for a, b in zip(log_probs(POLICY.table, TRAJECTORY), some, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(minibatches=0), "minibatches must be a positive integer. Received 0"),
        (dict(minibatches=3), "minibatches=3 for 4 prompts x 4 samples"),
        (dict(tokens=8, microbatches=8), "tokens=8 and microbatches=8: leave one"),
        (dict(epochs=0), "epochs must be a positive integer. Received 0"),
    ],
)
def test_counts_that_do_not_divide_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        improve(**options)


def test_weights_in_half_precision_are_trained_in_it():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), POLICY)
    optimizer = optax.adam(0.1)
    policy, opt_state, _ = improve(STALE, policy=half, optimizer=optimizer)
    dtypes = lambda tree: [x.dtype for x in jax.tree.leaves(tree)]
    assert policy.table.dtype == jnp.bfloat16
    assert dtypes(opt_state) == dtypes(optimizer.init(half))
    assert distance(policy, half) > 0.05
