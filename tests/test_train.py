"""The step is one pure function and one compiled program."""

import re
from importlib import resources

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from envs.gsm8k import GSM8K, load_rows
from grpojax import reward

from .helpers import count_env, transformer


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
FIXED = dict(env=count_env(), optimizer=OPTIMIZER, prompts=3, group=4, slots=5)


def start(seed=0):
    return grpojax.init(transformer(), optimizer=OPTIMIZER, key=jr.key(seed))


@eqx.filter_jit
@chex.assert_max_traces(n=1)
def step(state, fixed):
    return grpojax.train_step(state, **fixed)


def test_train_equals_steps_bit_for_bit_with_one_trace():
    state, rewards = start(), []
    for _ in range(4):
        state, metrics = step(state, FIXED)
        rewards.append(metrics["reward"])
    scanned, stacked = eqx.filter_jit(grpojax.train)(start(), steps=4, **FIXED)
    chex.assert_trees_all_equal(state, scanned)
    np.testing.assert_array_equal(stacked["reward"], jnp.stack(rewards))
    assert int(state.version) == 4


def test_a_step_is_its_two_halves():
    """As two programs, which round as they like, and with nothing in between."""
    collecting = {name: x for name, x in FIXED.items() if name != "optimizer"}
    collect, learn = eqx.filter_jit(grpojax.collect), eqx.filter_jit(grpojax.learn)
    whole, metrics = step(start(), FIXED)
    experience = collect(start(), **collecting)
    halves, measured = learn(start(), experience, optimizer=OPTIMIZER)
    assert set(experience.metrics) < set(measured) == set(metrics)
    assert int(halves.version) == 1
    for name, value in metrics.items():
        np.testing.assert_allclose(measured[name], value, atol=1e-4, err_msg=name)
    for mine, wanted in zip(
        jax.tree.leaves(halves.policy), jax.tree.leaves(whole.policy), strict=True
    ):
        np.testing.assert_allclose(mine, wanted, atol=1e-4)


@pytest.fixture(scope="module")
def gsm8k():
    """The shipped model, its tokenizer's bytes and text rewards, in one step."""
    path = resources.files("grpojax") / "assets" / "gsm8k-tiny"
    policy = grpojax.models.load(path, dtype="float32")
    tokenizer = grpojax.text.load_tokenizer(path)
    rows, _ = load_rows("word-problems", split="train", count=64)
    env = GSM8K(rows, tokenizer, max_completion_length=24)
    fixed = dict(env=env, optimizer=OPTIMIZER, prompts=2, group=4, slots=5)
    state = grpojax.init(policy, optimizer=OPTIMIZER, key=jr.key(0))
    lowered = eqx.filter_jit(grpojax.train_step).lower(state, **fixed)
    return state, fixed, lowered, lowered.compile()


def test_no_host_in_the_program(gsm8k):
    _, _, lowered, compiled = gsm8k
    text = lowered.as_text() + compiled.compiled.as_text()
    assert "while" in text  # The decode loop is inside it.
    for word in ("callback", "infeed", "outfeed", "SendToHost", "RecvFromHost"):
        assert not re.search(word, text, re.IGNORECASE), word


def test_three_steps_without_a_transfer(gsm8k):
    state, fixed, _, step = gsm8k
    seen = []
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, metrics = step(state, **fixed)
            seen.append(metrics)
    assert int(state.version) == 3
    for metrics in seen:
        chex.assert_tree_all_finite(metrics)
        assert 0 < metrics["rewards/format/mean"] <= 1


def test_same_seed_same_bits_and_another_seed_others():
    a, _ = step(start(0), FIXED)
    b, _ = step(start(0), FIXED)
    c, _ = step(start(1), FIXED)
    chex.assert_trees_all_equal(a, b)
    assert not eqx.tree_equal(a.policy, c.policy)


def test_one_temperature_for_the_sampler_and_the_loss():
    """Tokens are scored at what they were drawn at, and that is what was asked for."""
    entropy = []
    train_step = eqx.filter_jit(grpojax.train_step)
    for temperature in (0.5, 1.0, 2.0):
        temperature = jnp.asarray(temperature)
        _, metrics = train_step(start(), **FIXED, temperature=temperature)
        assert float(metrics["sampling/sampling_logp_difference/max"]) <= 1e-5
        entropy.append(float(metrics["entropy"]))
    assert entropy == sorted(entropy) and entropy[0] < entropy[2] - 0.1


@pytest.mark.slow
def test_every_step_draws_anew():
    """A policy that never changes still says other things in the next step."""
    still = dict(FIXED, optimizer=optax.sgd(0.0))
    state = grpojax.init(transformer(), optimizer=optax.sgd(0.0), key=jr.key(0))
    _, metrics = eqx.filter_jit(grpojax.train)(state, steps=3, **still)
    assert len(set(metrics["entropy"].tolist())) == 3


def test_the_state_that_went_in_is_still_there():
    state = start()
    kept = jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, state)
    step(state, FIXED)
    chex.assert_trees_all_equal(state, kept)


def test_it_learns_what_it_is_paid_for():
    env = count_env(ends=(1,), max_completion_length=8)
    fixed = dict(env=env, optimizer=optax.adam(1e-2), prompts=4, group=16)
    reward_fn = reward.WeightedSum({"target": 1.0})
    train = eqx.filter_jit(grpojax.train)
    policy = transformer()
    state = grpojax.init(policy, optimizer=fixed["optimizer"], key=jr.key(0))
    _, metrics = train(state, steps=60, reward=reward_fn, **fixed)
    said = metrics["rewards/target/mean"]
    assert said[-5:].mean() > said[:5].mean() + 2


@pytest.mark.slow
def test_a_sweep_compiles_once():
    """Over seeds, clip ranges and learning rates; a lane equals its run to rounding."""

    def run(high, rate, key):
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
        state = grpojax.init(transformer(), optimizer=optimizer, key=key)
        changed = dict(
            algorithm=grpojax.algorithms.grpo(high=high), optimizer=optimizer, epochs=2
        )
        state, metrics = grpojax.train(state, steps=2, **{**FIXED, **changed})
        return metrics["reward"], metrics["grad_norm"], state.policy.norm

    sweep = jax.jit(jax.vmap(chex.assert_max_traces(run, n=1)))
    highs, keys = (
        jnp.asarray([0.2, 0.2, 0.4]),
        jr.split(jr.key(0), 3)[jnp.array([0, 0, 1])],
    )
    rates = jnp.asarray([3e-3, 1e-3, 3e-3])
    lanes = sweep(highs, rates, keys)
    sweep(highs + 0.1, rates * 2, keys)
    for lane in range(3):
        alone = jax.jit(run)(highs[lane], rates[lane], keys[lane])
        for one, several in zip(alone, lanes, strict=True):
            np.testing.assert_allclose(several[lane], one, atol=1e-5)
    # One seed and two rates: the same first rollout, another policy after it.
    assert lanes[0][0, 0] == lanes[0][1, 0]
    assert abs(lanes[2][0] - lanes[2][1]).max() > 1e-3


def test_metrics_say_what_happened():
    state, metrics = step(start(), FIXED)
    assert metrics["completions/min_length"] >= 1
    assert metrics["completions/max_length"] <= 12
    assert metrics["num_tokens"] == pytest.approx(
        float(metrics["completions/mean_length"]) * 12, rel=1e-6
    )
    assert float(metrics["sampling/sampling_logp_difference/max"]) <= 1e-5
    total = metrics["rewards/target/mean"] + metrics["rewards/turns/mean"]
    np.testing.assert_allclose(metrics["reward"], total, rtol=1e-6)
    assert all(x.shape == () for x in metrics.values())


def test_a_group_of_one_has_no_baseline():
    with pytest.raises(ValueError, match="a group of one has no baseline"):
        eqx.filter_jit(grpojax.train_step)(start(), **{**FIXED, "group": 1})


class OneTalker(eqx.Module):
    """Two of every three prompts pay all their samples alike."""

    def __call__(self, trajectory):
        paid = jnp.zeros(trajectory.terminated.shape).at[2::3, 0].set(1.0)
        return grpojax.Rewards.of(paid, lengths=trajectory.lengths)


@pytest.mark.slow
def test_train_prompts_go_on_with_the_informative_ones():
    """The update of 2 of 6 prompts is that of a batch which held no others."""
    fixed = {**FIXED, "prompts": 6, "reward": OneTalker(), "train_prompts": 2}
    state, metrics = eqx.filter_jit(grpojax.train_step)(start(), **fixed)
    assert metrics["frac_reward_zero_std"] == pytest.approx(4 / 6)
    trajectory = grpojax.rollout.generate(
        start().policy,
        FIXED["env"],
        prompts=6,
        group=4,
        slots=5,
        key=jr.fold_in(start().key, 0),
    )
    talkers = jax.tree.map(lambda x: x[2::3], trajectory)
    algorithm = grpojax.algorithms.grpo()
    paid = jnp.zeros((2, 4)).at[:, 0].set(1.0)
    policy, *_ = eqx.filter_jit(grpojax.update.improve)(
        start().policy,
        start().opt_state,
        talkers,
        algorithm.advantage(grpojax.Rewards.of(paid)),
        objective=algorithm.objective,
        optimizer=OPTIMIZER,
    )
    for mine, wanted in zip(
        jax.tree.leaves(state.policy), jax.tree.leaves(policy), strict=True
    ):
        np.testing.assert_allclose(mine, wanted, atol=1e-6)
    with pytest.raises(ValueError, match="Received count=7 for 6 prompts"):
        eqx.filter_eval_shape(
            grpojax.train_step, start(), **{**fixed, "train_prompts": 7}
        )


def test_a_trajectory_remembers_how_its_conversations_began():
    env, key = FIXED["env"], jr.key(3)
    trajectory = grpojax.rollout.generate(
        transformer(), env, prompts=3, group=2, slots=2, key=key
    )
    reset_key, _ = jr.split(key)
    keys = jax.vmap(lambda index: jr.fold_in(reset_key, index))(jnp.arange(3))
    states, _ = jax.vmap(env.reset)(keys)
    chex.assert_trees_all_equal(trajectory.states, states)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (lambda _: None, "returns `Rewards`. Received None"),
        (lambda trajectory: trajectory.rewards["target"], "returns `Rewards`"),
        (reward.drop_truncated, "a shaping follows a reward function"),
        (reward.Chain(reward.WeightedSum(), lambda *_: None), "Received None"),
        (reward.WeightedSum(None, lambda _: 1.0), "Received 1.0"),
    ],
)
def test_a_reward_that_is_none_is_refused(wrong, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        eqx.filter_eval_shape(grpojax.train_step, start(), **{**FIXED, "reward": wrong})


def test_another_optimizers_state_is_refused():
    for other in (optax.sgd(1e-3), optax.adam(1e-3)):
        with pytest.raises(ValueError, match="one optimizer"):
            eqx.filter_eval_shape(
                grpojax.train_step, start(), **{**FIXED, "optimizer": other}
            )


def test_negative_steps_are_refused_and_zero_is_zero():
    with pytest.raises(ValueError, match="Received -1"):
        grpojax.train(start(), steps=-1, **FIXED)
    state, metrics = eqx.filter_jit(grpojax.train)(start(), steps=0, **FIXED)
    chex.assert_trees_all_equal(state, start())
    assert metrics["reward"].shape == (0,)
