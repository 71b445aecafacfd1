"""verl's numbers, and both answers to every question on which the peers differ.

Inputs are those of `trl.inputs()`; numbers with eight digits were printed by the peers,
the others are written out in numpy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpojax import update
from grpojax.update import Batch, LossInputs, Objective

from . import trl


GIVEN = trl.inputs()
MASK = GIVEN["cm"].astype(bool)
ADVANTAGE = np.broadcast_to(GIVEN["adv"][:, None], MASK.shape)
LENGTH = np.maximum(MASK.sum(-1, keepdims=True), 1)


@pytest.fixture(autouse=True)
def wide():
    with jax.enable_x64(True):
        yield


def evaluate(
    surrogate, weight=update.token_mean, ratio=update.token_ratio, given=(), **parts
):
    """The loss, and the sum of its gradient's absolute values."""
    objective = Objective(ratio, surrogate, weight, **parts)
    x = {name: jnp.asarray(values) for name, values in {**GIVEN, **dict(given)}.items()}
    advantage = x["adv"][:, None] if x["adv"].ndim == 1 else x["adv"]
    batch = Batch(advantage, jnp.asarray(MASK), x["old"], x["samp"], x["ref"])
    weights = objective.loss_weights(batch)

    def loss(log_prob):
        return objective(LossInputs(log_prob, x["ent"], batch, weights))[0]

    value, gradient = jax.value_and_grad(loss)(x["logp"])
    return float(value), float(jnp.abs(gradient).sum())


def inputs(**missing) -> LossInputs:
    """Inputs of the parts of an objective."""
    x = {name: jnp.asarray(values) for name, values in GIVEN.items()}
    mask = jnp.asarray(MASK)
    fields = {"behavior": x["samp"], **missing}
    batch = Batch(x["adv"][:, None], mask, x["old"], **fields)
    return LossInputs(x["logp"], x["ent"], batch, Objective().loss_weights(batch))


CLIP = update.Clip(0.2, 0.28, dual=3.0)


@pytest.mark.parametrize(
    "parts, loss, gradient",
    [
        (dict(surrogate=CLIP), 0.01073461, 0.56130986),
        (
            dict(
                surrogate=CLIP,
                weight=update.nonempty_sequence_mean,
                ratio=update.sequence_token_ratio,
            ),
            0.05217796,
            0.53996649,
        ),
        (
            dict(surrogate=update.Sapo(), weight=update.nonempty_sequence_mean),
            0.06845931,
            0.65254573,
        ),
        (dict(surrogate=update.Reinforce()), 0.32975985, 0.73333333),
        (
            dict(surrogate=update.Gmpo(0.2, 0.28), weight=update.sequence_mean),
            0.06739636,
            0.39200876,
        ),
        (dict(surrogate=update.Cispo(1.28, 0.8)), 0.41100034, 0.76456250),
    ],
    ids=["vanilla", "gspo", "sapo", "gpg", "geo_mean", "cispo"],
)
def test_verl_losses(parts, loss, gradient):
    # verl adds 1e-8 to a row's length, which moves the last digit.
    np.testing.assert_allclose(evaluate(**parts), (loss, gradient), atol=1.1e-8)


@pytest.mark.parametrize(
    "weight, wanted",
    [
        (update.token_mean, 1.37492563),
        (update.Total(5.0), 4.94973227),  # seq-mean-token-sum: over rows with tokens.
        (update.nonempty_sequence_mean, 1.50013125),
        (update.Total(5.0), 4.94973227),  # seq-mean-token-sum-norm: over the width.
    ],
)
def test_verl_aggregations(weight, wanted):
    got = np.sum(weight(jnp.asarray(MASK)) * GIVEN["ent"])
    np.testing.assert_allclose(got, wanted, atol=1.1e-8)


@pytest.mark.parametrize(
    "estimator, wanted",
    [
        (update.k1, -0.50114833),
        (update.absolute, 6.13567524),
        (update.k2, 1.42594653),
        (update.k3, 1.42512320),
        (update.k3_with_k2_gradient, 1.42512320),
    ],
)
def test_verl_kl(estimator, wanted):
    estimate = estimator(jnp.asarray(GIVEN["logp"]), jnp.asarray(GIVEN["ref"]))
    np.testing.assert_allclose(estimate[MASK].sum(), wanted, atol=1.1e-8)


def test_gradients_of_the_kl_estimators():
    """What each of them descends, per token, at x = log π - log π_ref."""
    x = jnp.linspace(-1.0, 1.0, 5)
    total = lambda x, estimator: jnp.sum(estimator(x, jnp.zeros_like(x)))
    slope = lambda estimator: jax.grad(total)(x, estimator)
    np.testing.assert_allclose(slope(update.k1), jnp.ones(5))
    np.testing.assert_allclose(slope(update.k2), x)
    np.testing.assert_allclose(slope(update.k3), 1 - jnp.exp(-x), atol=1e-15)
    np.testing.assert_allclose(slope(update.k3_with_k2_gradient), x)


def test_empty_rows_count_in_trls_mean_and_not_in_verls():
    clip = update.Clip(0.2, 0.28)
    theirs, _ = evaluate(clip, update.sequence_mean)
    others, _ = evaluate(clip, update.nonempty_sequence_mean)
    np.testing.assert_allclose(theirs, 0.06462400, atol=1e-8)
    np.testing.assert_allclose(others, theirs * 6 / 5)


def test_the_divisor_of_dr_grpo():
    clip = update.Clip(0.2, 0.28)
    configured, _ = evaluate(clip, update.Constant(8))
    padded, _ = evaluate(clip, update.Constant())
    without_rows, _ = evaluate(clip, update.Total(5.0))
    np.testing.assert_allclose(configured, 0.00402548, atol=1e-8)
    np.testing.assert_allclose(padded, configured * 8 / 5)
    np.testing.assert_allclose(without_rows, padded * 6)  # verl: 6 rows too large.


def test_a_sequence_is_weighed_by_a_sum_and_clipped_by_a_mean():
    """The sampler correction multiplies tokens, GSPO's ratio averages them."""
    gap = np.where(MASK, GIVEN["old"] - GIVEN["samp"], 0).sum(-1, keepdims=True)
    here = inputs()
    weights = update.Importance(3.0, outside="truncate")(here)
    np.testing.assert_allclose(weights, np.exp(gap))
    drift = np.where(MASK, GIVEN["logp"] - GIVEN["old"], 0).sum(-1, keepdims=True)
    wanted = np.broadcast_to(np.exp(drift / LENGTH), MASK.shape)
    np.testing.assert_allclose(update.sequence_ratio(here), wanted)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_truncating_and_masking_a_weight(level):
    gap = np.where(MASK, GIVEN["old"] - GIVEN["samp"], 0)
    gap = gap.sum(-1, keepdims=True) if level == "sequence" else gap
    here = inputs()
    weight, bounds = np.exp(gap), (0.95, 1.1)
    truncated = update.Importance(1.1, 0.95, level=level, outside="truncate")(here)
    np.testing.assert_allclose(truncated, np.clip(weight, *bounds))
    masked = update.Importance(1.1, 0.95, level=level, outside="mask")(here)
    inside = (weight >= 0.95) & (weight <= 1.1)
    assert inside.any() and not inside.all()
    np.testing.assert_allclose(masked, np.where(inside, weight, 0))


def _cispo(low, high):
    ratio = np.clip(np.exp(GIVEN["logp"] - GIVEN["old"]), low, high)
    return -(ratio * ADVANTAGE * GIVEN["logp"])[MASK].mean()


@pytest.mark.parametrize(
    "part, bounds, printed",
    [
        (update.Cispo(5.0), (0, 5.0), 0.43287731),  # TRL: absolute, one side.
        (update.Cispo(1.28, 0.8), (0.8, 1.28), 0.41100034),  # verl: two sides.
        (update.Cispo(1.28), (0, 1.28), None),  # open-instruct: 1 + high, one side.
    ],
)
def test_the_caps_of_cispo(part, bounds, printed):
    loss, gradient = evaluate(part)
    np.testing.assert_allclose(loss, _cispo(*bounds))
    if printed is not None:
        np.testing.assert_allclose(loss, printed, atol=1e-8)
    # The trap of a missing stop-gradient: weight · A is all that a token's gradient is.
    ratio = np.clip(np.exp(GIVEN["logp"] - GIVEN["old"]), *bounds)
    np.testing.assert_allclose(gradient, np.abs(ratio * ADVANTAGE)[MASK].mean())


def test_delta_is_a_dual_clip_only_from_one_plus_high_up():
    bounded = lambda **kwargs: evaluate(update.Clip(0.2, 0.28, **kwargs))
    np.testing.assert_allclose(bounded(delta=1.5), bounded(dual=1.5))
    assert bounded(dual=1.5)[0] < bounded()[0]
    np.testing.assert_allclose(bounded(delta=1.25)[0], -0.00588946, atol=1e-8)
    ratio = np.exp(GIVEN["logp"] - GIVEN["old"])
    value = np.minimum(ratio * ADVANTAGE, np.clip(ratio, 0.8, 1.28) * ADVANTAGE)
    dual = np.where(ADVANTAGE < 0, np.maximum(value, 1.25 * ADVANTAGE), value)
    np.testing.assert_allclose(bounded(dual=1.25)[0], -dual[MASK].mean())
    assert abs(bounded(dual=1.25)[0] - bounded(delta=1.25)[0]) > 1e-3


def test_kl_is_weighed_by_the_ratio_or_not_and_never_by_the_importance():
    clip, mean = update.Clip(0.2, 0.28), update.sequence_mean
    plain, _ = evaluate(clip, mean, penalties=(update.KL(0.04),))
    weighed, _ = evaluate(
        clip, mean, penalties=(update.KL(0.04, ratio=update.token_ratio),)
    )
    np.testing.assert_allclose([plain, weighed], [0.06691414, 0.06704686], atol=1e-8)
    importance = update.Importance(3.0, level="token", outside="truncate")
    without, _ = evaluate(clip, mean, importance=importance)
    both, _ = evaluate(clip, mean, importance=importance, penalties=(update.KL(0.04),))
    np.testing.assert_allclose(without, 0.06173498, atol=1e-8)
    np.testing.assert_allclose(both - without, plain - 0.06462400, atol=2e-8)


def test_a_sequence_ratio_of_the_row_and_of_its_tokens():
    """One gradient where advantages are a row's, two where they are a token's."""
    both = update.sequence_ratio, update.sequence_token_ratio
    clip, mean = update.Clip(0.2, 0.28), update.sequence_mean
    row, token = (evaluate(clip, mean, ratio) for ratio in both)
    np.testing.assert_allclose(row, token)
    tilted = dict(adv=ADVANTAGE * np.linspace(-1.0, 1.5, 5))
    row, token = (evaluate(clip, mean, ratio, given=tilted) for ratio in both)
    np.testing.assert_allclose(row[0], token[0])
    assert abs(row[1] - token[1]) > 1e-3


def test_a_clamp_keeps_an_absurd_ratio_finite():
    far = np.array(GIVEN["logp"])
    far[1, 0], far[0, 0] = 800.0, -800.0  # A row of A < 0: no clip bounds its ratio.
    free = update.Clip(0.2, 0.28)
    _, gradient = evaluate(free, given=dict(logp=far))
    assert not np.isfinite(gradient)
    ratio = update.ClampedTokenRatio(20.0)
    loss, gradient = evaluate(free, ratio=ratio, given=dict(logp=far))
    assert np.isfinite(loss) and np.isfinite(gradient)
    np.testing.assert_allclose(
        evaluate(free, ratio=ratio), (0.01073461, 0.56130986), atol=1e-8
    )


@pytest.mark.parametrize(
    "ratio, advantage, flows",
    [
        (1.5, 1.0, False),  # Above the range, and A would raise it: clipped.
        (1.5, -1.0, True),  # Above the range, and A lowers it.
        (0.5, -1.0, False),
        (0.5, 1.0, True),
        (1.1, 1.0, True),
        (0.9, -1.0, True),
    ],
)
def test_clipping_stops_the_gradient_on_the_right_side_only(ratio, advantage, flows):
    """The trap of a maximum where a minimum belongs, for A < 0."""
    mask = jnp.ones((1, 1), bool)
    objective = Objective(surrogate=update.Clip(0.2, 0.2))
    batch = Batch(jnp.full((1, 1), advantage), mask, jnp.zeros((1, 1)))
    weights = objective.loss_weights(batch)
    loss = lambda x: objective(LossInputs(x, x, batch, weights))
    gradient, measured = jax.grad(loss, has_aux=True)(jnp.log(jnp.full((1, 1), ratio)))
    assert bool(gradient.any()) == flows
    clipped = measured["clip_low"] + measured["clip_high"]
    assert bool(clipped.any()) != flows


def test_errors_name_what_is_missing():
    objective = Objective(importance=update.Importance())
    here = inputs(behavior=None)
    with pytest.raises(ValueError, match=r"Pass `Batch\(behavior=...\)`"):
        objective(here)
    with pytest.raises(ValueError, match=r"Pass `Batch\(entropy=...\)`"):
        Objective(entropy_filter=update.TopEntropy()).loss_weights(here.batch)
    with pytest.raises((ValueError, TypeError), match="level"):
        update.Importance(level="row")  # pyright: ignore
    with pytest.raises(ValueError, match="Received length=0"):
        update.Constant(0)
