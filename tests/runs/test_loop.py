import chex
import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
import pytest

from grpojax import collect, init, train_step
from grpojax.runs.training import step as loop

from ..helpers import count_env, leaves, transformer


OPTIMIZER = optax.adam(1e-2)


def start():
    return init(transformer(), optimizer=OPTIMIZER, key=jr.key(0))


def settings(**sizes):
    return dict(env=count_env(), optimizer=OPTIMIZER, prompts=2, group=4) | sizes


def test_it_is_the_train_step_and_reports_each():
    step = loop.lower(start(), **settings()).compile()
    assert step.seconds > 0
    reports = []
    state = loop.fit(start(), step=step.call, steps=3, report=reports.append)
    expected, metrics = start(), []
    plain = eqx.filter_jit(lambda state: train_step(state, **settings()))
    for _ in range(3):
        expected, measured = plain(expected)
        metrics.append(measured)
    assert int(state.version) == 3
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
    jax.tree.map(close, *(leaves(x.policy) for x in (state, expected)))
    assert [reading.step for reading in reports] == [1, 2, 3]
    for reading, measured in zip(reports, metrics, strict=True):
        report = reading.metrics
        assert reading.completions is None
        assert set(report) == {"step_time", *measured}
        assert all(isinstance(value, float) for value in report.values())
        assert report["reward"] == pytest.approx(float(measured["reward"]), abs=1e-5)


def test_the_memory_of_the_state_is_reused_and_the_environment_is_not():
    env = count_env()
    state = start()
    step = loop.lower(state, **settings(env=env)).compile()
    next_state, *_ = step.call(state)
    assert state.policy.embedding.is_deleted()
    assert not env.end_tokens.is_deleted()
    step.call(next_state)


def test_the_environment_is_an_argument_and_no_constant():
    lowered = loop.lower(start(), **settings())
    other = count_env(ends=(30, 31, 32, 33, 34))
    first = lowered.compile()
    paid_by = lambda env: first.call.func({**lowered.fixed, "env": env}, start())[1]
    same = paid_by(count_env())
    chex.assert_trees_all_equal(same, paid_by(count_env()))
    assert same["num_tokens"] != paid_by(other)["num_tokens"]


def test_what_does_not_fit_is_refused_before_anything_is_compiled():
    with pytest.raises(ValueError, match="group=1"):
        loop.lower(start(), **settings(group=1))
    with pytest.raises(ValueError, match="microbatches=3"):
        loop.lower(start(), **settings(microbatches=3))


def test_no_steps_change_nothing():
    state = start()
    never = lambda *_: pytest.fail("no step was asked for")
    assert loop.fit(state, step=never, steps=0, report=never) is state


def test_unknown_keywords_are_refused():
    with pytest.raises(TypeError, match="promts"):
        loop.lower(start(), **settings(promts=3))


@pytest.mark.slow
def test_completions_are_those_of_the_first_prompts():
    sizes = settings(prompts=3)
    step = loop.lower(start(), completions=2, **sizes).compile()
    _, _, said = step.call(start())
    del sizes["optimizer"]
    plain = eqx.filter_jit(lambda state: collect(state, **sizes))
    experience = plain(start())
    trajectory, rewards = experience.trajectory, experience.rewards
    for got, whole in (
        (said.prompt.tokens, trajectory.prompt.tokens),
        (said.tokens, trajectory.tokens),
        (said.sampled, trajectory.sampled),
        (said.log_prob, trajectory.log_prob),
        (said.terminated, trajectory.terminated),
        (said.rewards["target"], trajectory.rewards["target"]),
        (said.total, rewards.total),
        (said.valid, rewards.valid),
        (said.advantages, experience.advantages),
    ):
        assert got.shape[0] == 2
        np.testing.assert_allclose(got, whole[:2], atol=1e-5)


class Counted:
    """Steps whose metrics are their number, and how often they were read."""

    def __init__(self, monkeypatch):
        self.transfers, get = 0, jax.device_get

        def counting(tree):
            self.transfers += 1
            return get(tree)

        monkeypatch.setattr(jax, "device_get", counting)

    def step(self, state):
        state = eqx.tree_at(lambda s: s.version, state, state.version + 1)
        return state, {"number": state.version * 1.0}, None


@pytest.mark.parametrize("every", [1, 3, 10])
def test_metrics_are_read_once_an_interval_and_none_is_lost(every, monkeypatch):
    counted, reports = Counted(monkeypatch), []
    fit = lambda state, steps: loop.fit(
        state, step=counted.step, steps=steps, every=every, report=reports.append
    )
    state = fit(start(), steps=7)
    assert counted.transfers == -(-7 // every)
    # What is taken up goes on where it was, and reads at the same steps.
    fit(state, steps=8)
    assert [reading.step for reading in reports] == list(range(1, 9))
    for reading in reports:
        assert reading.metrics["number"] == reading.step
        assert reading.metrics["step_time"] >= 0


def test_what_was_not_read_is_read_when_a_step_breaks(monkeypatch):
    counted, reports = Counted(monkeypatch), []

    def step(state):
        if int(state.version) == 4:
            raise RuntimeError("lightning")
        return counted.step(state)

    with pytest.raises(RuntimeError, match="lightning"):
        loop.fit(start(), step=step, steps=9, every=3, report=reports.append)
    assert [reading.step for reading in reports] == [1, 2, 3, 4]


def test_a_visitor_may_stop_it_and_may_have_everything_reported(monkeypatch):
    counted, reports, seen = Counted(monkeypatch), [], []

    def visit(number, state, readings):
        assert int(state.version) == number
        if number == 2:
            readings.read()
        seen.append((number, len(reports)))
        return number < 5

    state = loop.fit(
        start(),
        step=counted.step,
        steps=9,
        every=4,
        report=reports.append,
        visit=visit,
    )
    assert int(state.version) == 5
    assert seen == [(1, 0), (2, 2), (3, 2), (4, 4), (5, 4)]
    assert [reading.step for reading in reports] == [1, 2, 3, 4, 5]
