import chex
import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
import pytest

from grpojax import collect, init, RolloutConfig, train_step, TrainStep, UpdateConfig
from grpojax.runs.training.fit import fit
from grpojax.runs.training.step import lower

from ...helpers import count_env, leaves, transformer


OPTIMIZER = optax.adam(1e-2)
ROLLOUT = RolloutConfig(2, 4)


def start():
    return init(transformer(), optimizer=OPTIMIZER, key=jr.key(0))


def make_step(*, env=None, rollout=ROLLOUT, update=UpdateConfig()):
    env = count_env() if env is None else env
    return TrainStep(env, OPTIMIZER, rollout=rollout, update=update)


@pytest.mark.slow
def test_the_program_computes_train_step():
    compiled = lower(start(), make_step()).compile()
    assert compiled.seconds > 0 and compiled.bytes["step"]["temporary"] > 0
    state, expected = start(), start()
    plain = eqx.filter_jit(
        lambda state: train_step(state, count_env(), OPTIMIZER, rollout=ROLLOUT)
    )
    for _ in range(3):
        state, metrics, samples = compiled.call(state)
        expected, measured = plain(expected)
        assert samples is None
        assert set(metrics) == set(measured)
        close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
        close(metrics["reward"], measured["reward"])
    assert int(state.version) == 3
    jax.tree.map(close, *(leaves(x.policy) for x in (state, expected)))


@pytest.mark.slow
def test_any_function_of_a_state_is_a_step():
    step = make_step()
    state, metrics, samples = lower(start(), step).compile().call(start())
    function = lambda state: step(state)
    same, again, none = lower(start(), function, samples=2).compile().call(start())
    assert samples is None and none is None
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
    jax.tree.map(close, leaves(state.policy), leaves(same.policy))
    jax.tree.map(close, metrics, again)


def test_the_state_is_donated_and_the_environment_is_not():
    env = count_env()
    state = start()
    compiled = lower(state, make_step(env=env)).compile()
    next_state, *_ = compiled.call(state)
    assert state.policy.embedding.is_deleted()
    assert not env.end_tokens.is_deleted()
    compiled.call(next_state)


def test_the_environment_is_an_argument_and_no_constant():
    compiled = lower(start(), make_step()).compile()
    other = count_env(ends=(30, 31, 32, 33, 34))
    program = compiled.call.func  # pyright: ignore[reportFunctionMemberAccess]
    metrics_of = lambda env: program(make_step(env=env), start())[1]
    same = metrics_of(count_env())
    chex.assert_trees_all_equal(same, metrics_of(count_env()))
    assert same["num_tokens"] != metrics_of(other)["num_tokens"]


def test_what_does_not_fit_is_refused_before_anything_is_compiled():
    with pytest.raises(ValueError, match="group=1"):
        lower(start(), make_step(rollout=RolloutConfig(2, 1)))
    with pytest.raises(ValueError, match="minibatches=3"):
        lower(start(), make_step(update=UpdateConfig(minibatches=3)))


def test_no_steps_change_nothing(monkeypatch):
    never = lambda *_: pytest.fail("no step was asked for")
    monkeypatch.setattr("grpojax.runs.training.step.LoweredStep.compile", never)
    state = start()
    assert fit(state, make_step(), steps=0) is state


def test_unknown_keywords_are_refused():
    with pytest.raises(TypeError, match="promts"):
        RolloutConfig(2, 4, promts=3)
    with pytest.raises(TypeError, match="updates"):
        TrainStep(count_env(), OPTIMIZER, rollout=ROLLOUT, updates=1)
    with pytest.raises(TypeError, match="stepz"):
        fit(start(), make_step(), steps=1, stepz=3)


@pytest.mark.slow
def test_samples_are_those_of_the_first_prompts():
    step = make_step(rollout=RolloutConfig(3, 4))
    _, _, samples = lower(start(), step, samples=2).compile().call(start())
    plain = eqx.filter_jit(lambda state: collect(state, step.env, rollout=step.rollout))
    experience = plain(start())
    trajectory, rewards = experience.trajectory, experience.rewards
    for got, full in (
        (samples.prompt.tokens, trajectory.prompt.tokens),
        (samples.tokens, trajectory.tokens),
        (samples.sampled, trajectory.sampled),
        (samples.log_prob, trajectory.log_prob),
        (samples.terminated, trajectory.terminated),
        (samples.rewards["target"], trajectory.rewards["target"]),
        (samples.total, rewards.total),
        (samples.valid, rewards.valid),
        (samples.advantage, experience.advantages),
    ):
        assert got.shape[0] == 2
        np.testing.assert_allclose(got, full[:2], atol=1e-5)
