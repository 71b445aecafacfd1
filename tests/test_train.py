"""The step is one pure function and one compiled program."""

import dataclasses
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
from grpojax import reward, rollout, RolloutConfig, TrainStep

from .helpers import count_env, transformer


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
ROLLOUT = RolloutConfig(prompts=3, group=4, slots=5)
STEP = TrainStep(count_env(), OPTIMIZER, rollout=ROLLOUT)
change = dataclasses.replace
ONE = jnp.ones(())


def start(seed=0):
    return grpojax.init(transformer(), optimizer=OPTIMIZER, key=jr.key(seed))


@eqx.filter_jit
@eqx.debug.assert_max_traces(max_traces=1)
def take(step, state):
    return step(state)


def arguments(step: TrainStep) -> dict:
    """The arguments of `train_step` but the state."""
    others = {"actors", "average", "teacher"}  # Of `TrainStep` alone.
    names = {field.name for field in dataclasses.fields(step)} - others
    return {name: getattr(step, name) for name in names}


@pytest.mark.laws
def test_train_equals_steps_bit_for_bit_with_one_trace():
    state, rewards = start(), []
    for _ in range(4):
        state, metrics = take(STEP, state)
        rewards.append(metrics["reward"])
    scanned, stacked = eqx.filter_jit(grpojax.train)(start(), STEP, steps=4)
    chex.assert_trees_all_equal(state, scanned)
    np.testing.assert_array_equal(stacked["reward"], jnp.stack(rewards))
    assert int(state.version) == 4


@pytest.mark.slow
@pytest.mark.laws
def test_a_train_step_is_the_function_of_its_fields():
    """Bit for bit, and its two halves are those of the functions."""
    state, metrics = take(STEP, start())
    same, measured = eqx.filter_jit(grpojax.train_step)(start(), **arguments(STEP))
    chex.assert_trees_all_equal((state, metrics), (same, measured))
    chex.assert_trees_all_equal(eqx.filter_jit(STEP)(start()), (state, metrics))


@pytest.mark.laws
def test_two_programs_are_one_bit_for_bit():
    """`collect` and `learn`, each compiled alone, with nothing in between."""
    collect, learn = eqx.filter_jit(grpojax.collect), eqx.filter_jit(grpojax.learn)
    state, metrics = take(STEP, start())
    experience = collect(start(), STEP.env, rollout=ROLLOUT)
    halves, measured = learn(start(), experience, OPTIMIZER)
    assert set(experience.metrics) < set(measured) == set(metrics)
    assert int(halves.version) == 1
    chex.assert_trees_all_equal(halves, state)
    chex.assert_trees_all_equal(measured, metrics)


@pytest.mark.slow
def test_the_environment_is_an_argument_and_no_constant():
    """One compiled program takes another environment, algorithm and temperature."""
    program = eqx.filter_jit(lambda step, state: step(state))
    step = change(STEP, rollout=change(ROLLOUT, sampler=rollout.Categorical(ONE)))
    step = change(step, algorithm=grpojax.algorithms.grpo(high=ONE))
    compiled = program.lower(step, start()).compile()
    state, metrics = compiled(step, start())
    chex.assert_trees_all_equal(compiled(step, start()), (state, metrics))
    env = count_env(ends=(30, 31, 32, 33, 34))
    _, other = compiled(change(step, env=env), start())
    assert other["num_tokens"] != metrics["num_tokens"]
    colder = change(step.rollout, sampler=rollout.Categorical(ONE / 2))
    _, other = compiled(change(step, rollout=colder), start())
    assert float(other["entropy"]) < float(metrics["entropy"]) - 0.1
    assert float(other["sampling/sampling_logp_difference/max"]) <= 1e-5


@pytest.fixture(scope="module")
def gsm8k():
    """The shipped model, its tokenizer's bytes and text rewards, in one step."""
    path = resources.files("grpojax") / "assets" / "gsm8k-tiny"
    policy = grpojax.models.load(path, dtype="float32")
    tokenizer = grpojax.text.load_tokenizer(path)
    rows, _ = load_rows("word-problems", split="train", count=64)
    env = GSM8K(rows, tokenizer, max_completion_length=24)
    step = TrainStep(env, OPTIMIZER, rollout=RolloutConfig(2, 4, slots=5))
    state = grpojax.init(policy, optimizer=OPTIMIZER, key=jr.key(0))
    lowered = eqx.filter_jit(lambda step, state: step(state)).lower(step, state)
    return state, step, lowered, lowered.compile()


def test_no_host_in_the_program(gsm8k):
    _, _, lowered, compiled = gsm8k
    text = lowered.as_text() + compiled.compiled.as_text()
    assert "while" in text  # The decode loop is inside it.
    for word in ("callback", "infeed", "outfeed", "SendToHost", "RecvFromHost"):
        assert not re.search(word, text, re.IGNORECASE), word


def test_three_steps_without_a_transfer(gsm8k):
    state, step, _, compiled = gsm8k
    seen = []
    with jax.transfer_guard("disallow"):
        for _ in range(3):
            state, metrics = compiled(step, state)
            seen.append(metrics)
    assert int(state.version) == 3
    for metrics in seen:
        chex.assert_tree_all_finite(metrics)
        assert 0 < metrics["rewards/format/mean"] <= 1


@pytest.mark.laws
def test_same_seed_same_bits_and_another_seed_others():
    first, _ = take(STEP, start(0))
    again, _ = take(STEP, start(0))
    other, _ = take(STEP, start(1))
    chex.assert_trees_all_equal(first, again)
    assert not eqx.tree_equal(first.policy, other.policy)


@pytest.mark.slow
def test_every_step_draws_anew():
    """A policy that never changes still has other completions in the next step."""
    step = change(STEP, optimizer=optax.sgd(0.0))
    state = grpojax.init(transformer(), optimizer=step.optimizer, key=jr.key(0))
    _, metrics = eqx.filter_jit(grpojax.train)(state, step, steps=3)
    assert len(set(metrics["entropy"].tolist())) == 3


def test_the_state_that_went_in_is_still_there():
    state = start()
    kept = jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, state)
    take(STEP, state)
    chex.assert_trees_all_equal(state, kept)


def test_it_learns_what_is_rewarded():
    step = TrainStep(
        count_env(ends=(1,), max_completion_length=8),
        optax.adam(1e-2),
        rollout=RolloutConfig(prompts=4, group=16),
        reward=reward.WeightedSum({"target": 1.0}),
    )
    train = eqx.filter_jit(grpojax.train)
    state = grpojax.init(transformer(), optimizer=step.optimizer, key=jr.key(0))
    _, metrics = train(state, step, steps=60)
    targets = metrics["rewards/target/mean"]
    assert targets[-5:].mean() > targets[:5].mean() + 2


@pytest.mark.slow
def test_a_sweep_compiles_once():
    """Over seeds, clip ranges and learning rates; a lane equals its run to rounding."""

    def run(high, rate, key):
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
        state = grpojax.init(transformer(), optimizer=optimizer, key=key)
        step = TrainStep(
            STEP.env,
            optimizer,
            grpojax.algorithms.grpo(high=high),
            rollout=ROLLOUT,
            update=grpojax.UpdateConfig(epochs=2),
        )
        state, metrics = grpojax.train(state, step, steps=2)
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


def test_metrics_agree_with_one_another():
    _, metrics = take(STEP, start())
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
    step = change(STEP, rollout=change(ROLLOUT, group=1))
    with pytest.raises(ValueError, match="a group of one has no baseline"):
        eqx.filter_jit(step)(start())


class EveryThird(eqx.Module):
    """Two of every three prompts have equal rewards for all their samples."""

    def __call__(self, trajectory):
        total = jnp.zeros(trajectory.terminated.shape).at[2::3, 0].set(1.0)
        return grpojax.Rewards.of(total, lengths=trajectory.lengths)


@pytest.mark.slow
def test_train_prompts_are_those_whose_rewards_differ():
    """The update of 2 of 6 prompts is that of a batch of these two."""
    config = change(ROLLOUT, prompts=6, train_prompts=2)
    step = change(STEP, rollout=config, reward=EveryThird())
    state, metrics = eqx.filter_jit(step)(start())
    assert metrics["frac_reward_zero_std"] == pytest.approx(4 / 6)
    key = jr.fold_in(start().key, 0)
    trajectory = rollout.generate(start().policy, STEP.env, config, key=key)
    algorithm = grpojax.algorithms.grpo()
    total = jnp.zeros((2, 4)).at[:, 0].set(1.0)
    policy, *_ = eqx.filter_jit(grpojax.update.improve)(
        start().policy,
        start().opt_state,
        trajectory.take(jnp.array([2, 5])),
        algorithm.advantage(grpojax.Rewards.of(total)),
        objective=algorithm.objective,
        optimizer=OPTIMIZER,
    )
    for mine, wanted in zip(
        jax.tree.leaves(state.policy), jax.tree.leaves(policy), strict=True
    ):
        np.testing.assert_allclose(mine, wanted, atol=1e-6)
    step = change(STEP, rollout=change(config, train_prompts=7))
    with pytest.raises(ValueError, match="Received count=7 for 6 prompts"):
        eqx.filter_eval_shape(step, start())


@pytest.mark.slow
def test_a_trajectory_has_the_initial_states_of_its_conversations():
    env, key = STEP.env, jr.key(3)
    config = RolloutConfig(prompts=3, group=2, slots=2)
    trajectory = rollout.generate(transformer(), env, config, key=key)
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
        options = {**arguments(STEP), "reward": wrong}
        eqx.filter_eval_shape(grpojax.train_step, start(), **options)


def test_another_optimizers_state_is_refused():
    for other in (optax.sgd(1e-3), optax.adam(1e-3)):
        with pytest.raises(ValueError, match="same optimizer"):
            eqx.filter_eval_shape(change(STEP, optimizer=other), start())


def test_negative_steps_are_refused_and_zero_is_zero():
    with pytest.raises(ValueError, match="Received -1"):
        grpojax.train(start(), STEP, steps=-1)
    state, metrics = eqx.filter_jit(grpojax.train)(start(), STEP, steps=0)
    chex.assert_trees_all_equal(state, start())
    assert metrics["reward"].shape == (0,)
