"""One matrix of laws: an algorithm joins all of them by one line."""

import dataclasses
import functools as ft
import inspect
import re
from pathlib import Path

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax import advantage, algorithms, masked, update
from grpojax.types import Rewards


PROMPTS, GROUP, TIME = 4, 4, 6

ALGORITHMS = (
    algorithms.grpo,
    ft.partial(algorithms.dr_grpo, length=TIME),
    algorithms.bnpo,
    algorithms.dapo,
    algorithms.gspo,
    algorithms.cispo,
    algorithms.rloo,
    algorithms.reinforce,
    algorithms.reinforce_plus_plus,
    ft.partial(algorithms.reinforce_plus_plus, group_baseline=True),
    algorithms.sapo,
    algorithms.vespo,
    algorithms.luspo,
    algorithms.gmpo,
    algorithms.opo,
)
# Here a row is compared with the whole batch, so a flat group has something to say.
OF_THE_BATCH = (advantage.BatchNormalized, advantage.ReinforcePlusPlus)

every_algorithm = pytest.mark.parametrize(
    "algorithm",
    [make() for make in ALGORITHMS],
    ids=[getattr(make, "func", make).__name__ for make in ALGORITHMS],
)
seeds = given(seed=st.integers(0, 2**31))
some = settings(max_examples=5, deadline=None)


class Drawn(eqx.Module):
    """One batch, drawn at fixed shapes so that each law compiles once."""

    mask: jax.Array
    log_prob: jax.Array
    old: jax.Array
    entropy: jax.Array
    rewards: Rewards


@jax.jit
def _draw(key) -> Drawn:
    keys = jr.split(key, 5)
    shape = PROMPTS, GROUP, TIME
    lengths = jr.randint(keys[0], shape[:2], 0, TIME + 1).at[0, 0].set(0)
    log_prob, entropy = jr.gamma(keys[1], 1.5, (2, *shape))
    return Drawn(
        mask=jnp.arange(TIME) < lengths[..., None],
        log_prob=-log_prob,
        old=-log_prob + 0.3 * jr.normal(keys[2], shape),
        entropy=entropy,
        rewards=Rewards.of(
            jr.randint(keys[3], shape[:2], 0, 4).astype(float), lengths=lengths
        ),
    )


def draw(seed: int) -> Drawn:
    return _draw(jr.key(seed))


def batch_and_weights(algorithm, drawn: Drawn):
    advantages = algorithm.advantage(drawn.rewards)
    mask = drawn.mask & algorithm.select(drawn.rewards)[..., None]
    batch = update.Batch(advantages[..., None], mask, drawn.old)
    return batch, algorithm.objective.loss_weights(batch)


def loss_and_gradient(objective, log_prob, entropy, batch, weights):
    loss = lambda x: objective(update.LossInputs(x, entropy, batch, weights))[0]
    return jax.value_and_grad(loss)(log_prob)


@eqx.filter_jit
def whole(algorithm, drawn: Drawn):
    fixed = batch_and_weights(algorithm, drawn)
    return loss_and_gradient(algorithm.objective, drawn.log_prob, drawn.entropy, *fixed)


def test_every_algorithm_is_in_the_matrix():
    known = {getattr(make, "func", make) for make in ALGORITHMS}
    public = set(filter(inspect.isfunction, vars(algorithms).values()))
    assert public == known


@every_algorithm
@some
@seeds
def test_no_gradient_reaches_a_token_that_was_not_sampled(algorithm, seed):
    drawn = draw(seed)
    loss, gradient = whole(algorithm, drawn)
    chex.assert_tree_all_finite((loss, gradient))
    assert not gradient[~drawn.mask].any()
    wild = lambda x: jnp.where(drawn.mask, x, jnp.nan)
    anything = dataclasses.replace(
        drawn, log_prob=wild(drawn.log_prob), old=wild(drawn.old)
    )
    np.testing.assert_array_equal(whole(algorithm, anything)[1], gradient)


@eqx.filter_jit
def at_ratio_one(objective, drawn: Drawn, advantages):
    objective = dataclasses.replace(objective, weight=update.token_mean)
    batch = update.Batch(advantages[..., None], drawn.mask, drawn.log_prob)
    weights = objective.loss_weights(batch)
    both = batch, dataclasses.replace(batch, old=None)
    current = objective, drawn.log_prob, drawn.entropy
    return [loss_and_gradient(*current, batch, weights)[1] for batch in both]


@every_algorithm
@some
@seeds
def test_at_ratio_one_all_have_one_gradient(algorithm, seed):
    """With equal advantages and weights: that of Σ weight · A · log π.

    It holds for every surrogate here. A clip is inactive at 1, SAPO's gate has the
    slope 4/τ · τ/4, CISPO's weight is 1 and VESPO's is exp(λ - λ); a ratio of rows
    spreads its gradient evenly over tokens whose advantages and weights are equal.
    """
    drawn = draw(seed)
    advantages = drawn.rewards.total - 1.5
    weight = drawn.mask.astype(float) / max(int(drawn.mask.sum()), 1)
    wanted = -weight * advantages[..., None]
    for gradient in at_ratio_one(algorithm.objective, drawn, advantages):
        np.testing.assert_allclose(gradient, wanted, atol=1e-6)


@eqx.filter_jit
def in_parts(algorithm, drawn: Drawn):
    """Gradients of 2, 4, 8 and 16 microbatches, with their rows put back."""
    rows = drawn.log_prob, drawn.entropy, *batch_and_weights(algorithm, drawn)
    gradient = jax.vmap(ft.partial(loss_and_gradient, algorithm.objective))

    def of(parts):
        cut = lambda x: x.reshape(parts, -1, *x.shape[2:])
        losses, gradients = gradient(*jax.tree.map(cut, rows))
        return jnp.sum(losses), gradients.reshape(drawn.log_prob.shape)

    return [of(parts) for parts in (2, 4, 8, 16)]


@every_algorithm
@some
@seeds
def test_microbatches_add_up(algorithm, seed):
    drawn = draw(seed)
    loss, gradient = whole(algorithm, drawn)
    for again, parts in in_parts(algorithm, drawn):
        np.testing.assert_allclose(again, loss, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(parts, gradient, rtol=1e-5, atol=1e-7)


@every_algorithm
@some
@seeds
def test_extra_padding_changes_nothing(algorithm, seed):
    drawn = draw(seed)
    pad = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 3)), constant_values=False)
    wider = dataclasses.replace(
        drawn,
        mask=pad(drawn.mask),
        log_prob=pad(drawn.log_prob) - 1,
        old=pad(drawn.old) - 1,
        entropy=pad(drawn.entropy),
    )
    plain = dataclasses.replace(drawn, log_prob=drawn.log_prob - 1, old=drawn.old - 1)
    loss, gradient = whole(algorithm, plain)
    again, padded = whole(algorithm, wider)
    np.testing.assert_allclose(again, loss, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(padded[..., :TIME], gradient, rtol=1e-5, atol=1e-7)
    assert not padded[..., TIME:].any()


@every_algorithm
@some
@seeds
def test_a_group_of_equal_rewards_moves_nothing(algorithm, seed):
    drawn = draw(seed)
    flat = drawn.rewards.total.at[1].set(drawn.rewards.total[1, 0])
    rewards = dataclasses.replace(drawn.rewards, total=flat)
    _, gradient = whole(algorithm, dataclasses.replace(drawn, rewards=rewards))
    if not isinstance(algorithm.advantage, OF_THE_BATCH):
        assert not gradient[1].any()
    flat = jnp.full_like(flat, 3.0)
    rewards = dataclasses.replace(drawn.rewards, total=flat)
    _, gradient = whole(algorithm, dataclasses.replace(drawn, rewards=rewards))
    assert not gradient.any()


@every_algorithm
def test_nobody_to_train_on_moves_nothing(algorithm):
    drawn = draw(0)
    nobody = dataclasses.replace(drawn.rewards, keep=jnp.zeros((PROMPTS, GROUP), bool))
    loss, gradient = whole(algorithm, dataclasses.replace(drawn, rewards=nobody))
    assert loss == 0 and not gradient.any()
    silent = dataclasses.replace(drawn, mask=jnp.zeros_like(drawn.mask))
    loss, gradient = whole(algorithm, silent)
    assert loss == 0 and not gradient.any()


@every_algorithm
@some
@seeds
def test_praise_raises_a_row_and_blame_lowers_it(algorithm, seed):
    """Never the other way round, whatever the ratio."""
    drawn = draw(seed)
    _, gradient = whole(algorithm, drawn)
    a = np.asarray(algorithm.advantage(drawn.rewards))[..., None]
    assert (np.asarray(-gradient) * np.sign(a) >= 0).all()
    assert masked.fill(jnp.abs(gradient), drawn.mask).any()


def test_dapo_leaves_flat_groups_out_of_the_divisor():
    drawn = draw(3)
    total = drawn.rewards.total.at[:3].set(1.0).at[3].set(jnp.arange(4.0))
    drawn = dataclasses.replace(
        drawn, rewards=dataclasses.replace(drawn.rewards, total=total)
    )
    _, all_rows = whole(algorithms.bnpo(high=0.28), drawn)
    _, nonzero_variance = whole(algorithms.dapo(), drawn)
    ratio = drawn.mask.sum() / drawn.mask[3].sum()
    np.testing.assert_allclose(nonzero_variance[3], all_rows[3] * ratio, rtol=1e-5)


def test_numbers_are_leaves():
    """A sweep over clip ranges is a `vmap`."""
    drawn = draw(1)
    lows = jnp.asarray([0.05, 0.2])
    run = lambda low: whole(algorithms.grpo(low=low), drawn)[1]
    for lane, low in zip(jax.vmap(run)(lows), lows, strict=True):
        np.testing.assert_allclose(lane, run(low), rtol=1e-6)


DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "algorithms.md"


def written(part) -> str:
    if not isinstance(part, eqx.Module):
        return f"`{part.__name__}`"
    fields = {f.name: vars(part)[f.name] for f in dataclasses.fields(part)}
    said = [f"{name}={x}" for name, x in fields.items() if x is not None]
    return f"`{type(part).__name__}({', '.join(said)})`"


def test_the_documents_table_shows_every_part():
    rows = []
    for make in {getattr(make, "func", make): None for make in ALGORITHMS}:
        algorithm = make()
        objective = algorithm.objective
        parts = [make, algorithm.advantage, algorithm.select]
        parts += [objective.ratio, objective.surrogate, objective.weight]
        rows.append(f"| {' | '.join(map(written, parts))} |")
        rest = "penalties", "importance", "entropy_filter", "off_policy_filter"
        assert not any(vars(objective)[name] for name in (*rest, "entropy_bonus"))
    rows_of_six = re.compile(r"^\|(?: `[^`|]*` \|){6}$", re.MULTILINE)
    assert rows_of_six.findall(DOCUMENT.read_text()) == rows, "\n".join(rows)


def test_the_documents_programs_run():
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        exec(compile(block, DOCUMENT.name, "exec"), namespace)
    drawn = draw(2)
    for name in ("lite_ppo", "gspo_token", "verl_grpo", "forking_tokens"):
        algorithm = namespace[name]
        advantages = algorithm.advantage(drawn.rewards)[..., None]
        batch = update.Batch(advantages, drawn.mask, drawn.old, entropy=drawn.entropy)
        weights = algorithm.objective.loss_weights(batch)
        inputs = update.LossInputs(drawn.log_prob, drawn.entropy, batch, weights)
        assert jnp.isfinite(algorithm.objective(inputs)[0])
    assert isinstance(namespace["decoupled"].objective.importance, update.Importance)
