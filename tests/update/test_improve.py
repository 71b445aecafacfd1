"""The laws of the update."""

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
from grpojax.update import _improve

from ..helpers import distance, transformer
from .doubles import Bigram, bigram, say, score


SGD = optax.sgd(1.0)
POLICY = bigram()
SAID = say(POLICY)
STALE = say(POLICY, gap=0.4)
ADVANTAGES = jr.normal(jr.key(1), (4, 4))


@eqx.filter_jit
def improve(trajectory=SAID, advantages=ADVANTAGES, keep=None, **options):
    options = {"objective": grpo().objective, "optimizer": SGD, **options}
    policy = options.pop("policy", POLICY)
    opt_state = options["optimizer"].init(eqx.filter(policy, eqx.is_inexact_array))
    return update.improve(policy, opt_state, trajectory, advantages, keep, **options)


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


@pytest.mark.parametrize("objective", [grpo().objective, CORRECTED])
def test_microbatches_add_up(objective):
    """The traps of averaging twice, and of applying the last part's gradient alone."""
    options = dict(objective=objective, recompute=objective.importance is not None)
    whole, _, measured = improve(STALE, **options)
    assert distance(whole, POLICY) > 0.01
    for parts in (2, 4, 8):
        some, _, again = improve(STALE, **options, microbatches=parts)
        np.testing.assert_allclose(some.table, whole.table, rtol=1e-6, atol=1e-6)
        assert relative(whole, some) <= 1e-5
        assert again.keys() == measured.keys()
        for name, value in measured.items():
            np.testing.assert_allclose(again[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("microbatches, times", [(None, 1), (2, 1), (8, 2)])
def test_a_gradient_is_traced_once_unless_prompts_are_cut(
    monkeypatch, microbatches, times
):
    """Tracing is a good part of a start; a loop over prompts traces for shapes, too."""
    chex.clear_trace_counter()  # Parameters of a test share one counter.
    counted = chex.assert_max_traces(_improve.gradient_in_parts, n=times)
    monkeypatch.setattr(_improve, "gradient_in_parts", counted)
    opt_state = SGD.init(eqx.filter(POLICY, eqx.is_inexact_array))
    update.improve(
        POLICY,
        opt_state,
        SAID,
        ADVANTAGES,
        objective=grpo().objective,
        optimizer=SGD,
        microbatches=microbatches,
    )


def test_gradient_equals_the_formula_written_out():
    """One SGD step against autodiff of a loss that shares no code.

    The traps of dividing log-probabilities, not logits, by the temperature, and of a
    prompt that is read at the wrong positions.
    """
    start, lengths = transformer(), (2, 3)
    said = say(bigram(vocab=50), prompts=2, group=2)
    prompt = Prompt(said.prompt.tokens, jnp.asarray(lengths))
    said = dataclasses.replace(said, prompt=prompt)
    params, static = eqx.partition(start, eqx.is_inexact_array)

    def value_of_row(policy, prompt, tokens, mask, old, a):
        stream = jnp.concatenate([prompt, tokens])
        every = jax.nn.log_softmax(policies.logits(policy, stream) / 0.7)
        log_prob = every[jnp.arange(len(prompt) - 1, len(stream) - 1), tokens]
        ratio = jnp.exp(log_prob - old)
        value = jnp.minimum(ratio * a, jnp.clip(ratio, 0.9, 1.3) * a)
        return jnp.sum(jnp.where(mask, value, 0)) / jnp.maximum(mask.sum(), 1)

    def loss(params):
        policy, total = eqx.combine(params, static), 0.0
        for p, length in enumerate(lengths):
            prompt = said.prompt.tokens[p, :length]
            row = lambda *x, prompt=prompt: value_of_row(policy, prompt, *x)
            rows = said.tokens[p], said.sampled[p], said.log_prob[p], ADVANTAGES[p, :2]
            total += jnp.sum(jax.vmap(row)(*rows)) / 4
        return -total

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    wanted = eqx.apply_updates(start, jax.tree.map(jnp.negative, gradient))
    got, _, metrics = improve(
        said,
        ADVANTAGES[:2, :2],
        policy=start,
        objective=grpo(low=0.1, high=0.3).objective,
        temperature=0.7,
        microbatches=4,
    )
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert relative(wanted, got, start) <= 1e-4


LATE = update.Importance(1.5, level="token", outside="truncate")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("share", [None, 0.4])
@pytest.mark.parametrize("importance", [None, LATE])
def test_what_is_compared_with_what(recompute, share, importance):
    """The three policies: behavior sampled, proximal is old, and the current one."""
    objective = update.Objective(
        importance=importance,
        entropy_filter=None if share is None else update.TopEntropy(share),
    )
    options = dict(objective=objective, recompute=recompute)
    if importance is not None and not recompute:
        with pytest.raises(ValueError, match="Received recompute=False"):
            improve(STALE, **options)
        return

    def loss(table):
        log_prob, entropy = score(table, STALE)
        fresh = jax.lax.stop_gradient(log_prob)
        mask, a = STALE.sampled, ADVANTAGES[..., None]
        old = fresh if recompute else STALE.log_prob
        ratio = jnp.exp(log_prob - old)
        value = jnp.minimum(ratio * a, jnp.clip(ratio, 0.8, 1.2) * a)
        if importance is not None:
            value = value * jnp.clip(jnp.exp(fresh - STALE.log_prob), 0, 1.5)
        if share is not None:
            threshold = jnp.nanquantile(jnp.where(mask, entropy, jnp.nan), 1 - share)
            value = jnp.where(entropy >= threshold, value, 0)
        return -jnp.sum(jnp.where(mask, value, 0)) / mask.sum()

    value, gradient = jax.value_and_grad(loss)(POLICY.table)
    got, _, metrics = improve(STALE, **options)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert relative(Bigram(POLICY.table - gradient), got) <= 1e-4
    if importance is not None:
        weights = jnp.exp(score(POLICY.table, STALE)[0] - STALE.log_prob)
        weights = np.clip(weights, 0, 1.5)[STALE.sampled]
        name = "sampling/importance_sampling_ratio"
        for kind in ("mean", "min", "max"):
            wanted = getattr(weights, kind)()
            np.testing.assert_allclose(metrics[f"{name}/{kind}"], wanted, rtol=1e-5)


def test_later_updates_keep_the_policy_before_the_first_one():
    """Two epochs of `improve` are two calls that are told the same old policy."""
    objective = update.Objective(importance=LATE)
    options = dict(objective=objective, recompute=True)
    both, _, _ = improve(STALE, **options, epochs=2)
    first, _, _ = improve(STALE, **options)
    fresh = jnp.where(STALE.sampled, score(POLICY.table, STALE)[0], 0)
    weight = jnp.clip(jnp.exp(fresh - STALE.log_prob), 0, 1.5)
    frozen = objective.prepare(
        update.Frozen(ADVANTAGES[..., None], STALE.sampled, fresh, importance=weight)
    )
    loss = lambda t: objective(update.Scores(*score(t, STALE), frozen))[0]
    second = Bigram(first.table - jax.grad(loss)(first.table))
    assert relative(second, both) <= 1e-4


def test_nothing_outside_sampled_matters():
    """Tokens, log-probabilities and versions outside the mask may be anything."""
    noise = jr.randint(jr.key(2), SAID.tokens.shape, 0, POLICY.vocab_size)
    after = ~SAID.sampled
    other = dataclasses.replace(
        SAID,
        tokens=jnp.where(after, noise, SAID.tokens),
        log_prob=jnp.where(after, jnp.nan, SAID.log_prob),
    )
    assert after.any()
    chex.assert_trees_all_equal(improve()[0], improve(other)[0])


def test_extra_padding_changes_nothing():
    """Neither a longer prompt width nor a longer horizon: the trap of padded widths."""
    wider = dataclasses.replace(
        SAID,
        prompt=Prompt(
            jnp.pad(SAID.prompt.tokens, ((0, 0), (0, 5)), constant_values=9),
            SAID.prompt.length,
        ),
        **{
            name: jnp.pad(getattr(SAID, name), ((0, 0), (0, 0), (0, 7)))
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


def test_a_row_that_is_not_kept_does_not_exist():
    keep = jnp.ones((4, 4), bool).at[1, 2].set(False)
    dropped = dataclasses.replace(SAID, sampled=SAID.sampled & keep[..., None])
    wild = ADVANTAGES.at[1, 2].set(jnp.nan)
    a, _, metrics = improve(advantages=wild, keep=keep)
    b, _, _ = improve(dropped)
    chex.assert_trees_all_equal(a, b)
    assert not eqx.tree_equal(a, improve()[0])
    chex.assert_tree_all_finite(metrics["loss"])
    nobody, _, metrics = improve(keep=jnp.zeros((4, 4), bool))
    chex.assert_trees_all_equal(nobody, POLICY)
    chex.assert_tree_all_finite(metrics)


def test_an_empty_row_leaves_every_number_finite():
    """The trap of a completion of no tokens, whose mean entropy is 0/0."""
    assert not SAID.sampled[0, 1].any()
    policy, _, metrics = improve(STALE, objective=CORRECTED, recompute=True)
    chex.assert_tree_all_finite(metrics)
    _, entropy = score(POLICY.table, SAID)
    np.testing.assert_allclose(metrics["entropy"], entropy[SAID.sampled].mean(), 1e-5)
    chex.assert_tree_all_finite(policy.table)


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
    assert "learning_rate" not in metrics  # Nobody has written it down.


def test_the_learning_rate_is_that_of_the_last_update():
    schedule = lambda count: 0.5**count
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
    x = score(reference.table, SAID)[0] - score(POLICY.table, SAID)[0]
    x, mask = np.asarray(x), np.asarray(SAID.sampled)
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
    gap = score(POLICY.table, SAID)[0] - score(reference.table, SAID)[0]
    wanted = np.where(SAID.sampled, gap, 0).sum(-1)
    for parts in (1, 8):
        paid = update.KLReward(reference, parts=parts)(SAID)
        assert list(paid.components) == ["kl"]
        np.testing.assert_allclose(paid.total, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="parts=3 for 4 prompts x 4 samples"):
        update.KLReward(reference, parts=3)(SAID)


def test_gspo_moves_the_row_as_one():
    moved, _, metrics = improve(STALE, objective=gspo(low=0.05, high=0.05).objective)
    gap = score(POLICY.table, STALE)[0] - STALE.log_prob
    count = np.maximum(STALE.sampled.sum(-1), 1)
    ratio = np.exp(np.where(STALE.sampled, gap, 0).sum(-1) / count)
    some = STALE.sampled.any(-1)
    np.testing.assert_allclose(metrics["ratio/max"], ratio[some].max(), rtol=1e-5)
    np.testing.assert_allclose(metrics["ratio/min"], ratio[some].min(), rtol=1e-5)


def test_scores_do_not_depend_on_chunks():
    measure = eqx.filter_jit(update.score)
    for chunk in (None, 1, 7, 1000):
        some = measure(POLICY, SAID.prompt, SAID.tokens, chunk=chunk)
        for a, b in zip(score(POLICY.table, SAID), some, strict=True):
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


def test_weights_in_half_precision_are_trained_in_it():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), POLICY)
    optimizer = optax.adam(0.1)
    policy, opt_state, _ = improve(STALE, policy=half, optimizer=optimizer)
    dtypes = lambda tree: [x.dtype for x in jax.tree.leaves(tree)]
    assert policy.table.dtype == jnp.bfloat16
    assert dtypes(opt_state) == dtypes(optimizer.init(half))
    assert distance(policy, half) > 0.05
