import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
import pytest

from grpojax import init, train_step
from grpojax.runs import loop

from ..helpers import count_env, leaves, same_bits, transformer


OPTIMIZER = optax.adam(1e-2)


def start():
    return init(transformer(), optimizer=OPTIMIZER, key=jr.key(0))


def settings(**sizes):
    return dict(env=count_env(), optimizer=OPTIMIZER, prompts=2, group=4) | sizes


def test_it_is_the_train_step_and_reports_each():
    step = loop.lower(start(), **settings()).compile()
    assert step.seconds > 0
    reports = []
    state = loop.fit(
        start(), step=step.call, steps=3, report=lambda *x: reports.append(x)
    )
    expected, metrics = start(), []
    plain = eqx.filter_jit(lambda state: train_step(state, **settings()))
    for _ in range(3):
        expected, measured = plain(expected)
        metrics.append(measured)
    assert int(state.version) == 3
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
    jax.tree.map(close, *(leaves(x.policy) for x in (state, expected)))
    assert [number for number, _ in reports] == [1, 2, 3]
    for (_, report), measured in zip(reports, metrics, strict=True):
        assert set(report) == {"step_time", *measured}
        assert all(isinstance(value, float) for value in report.values())
        assert report["reward"] == pytest.approx(float(measured["reward"]), abs=1e-5)


def test_the_memory_of_the_state_is_reused_and_the_environment_is_not():
    env = count_env()
    state = start()
    step = loop.lower(state, **settings(env=env)).compile()
    next_state, _ = step.call(state)
    assert state.policy.embedding.is_deleted()
    assert not env.end_tokens.is_deleted()
    step.call(next_state)


def test_the_environment_is_an_argument_and_no_constant():
    lowered = loop.lower(start(), **settings())
    other = count_env(ends=(30, 31, 32, 33, 34))
    first = lowered.compile()
    paid_by = lambda env: first.call.func({**lowered.fixed, "env": env}, start())[1]
    same = paid_by(count_env())
    assert same_bits(same, paid_by(count_env()))
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
