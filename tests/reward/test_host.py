"""Rewards that only Python can compute: in one program, and as two."""

import dataclasses
import importlib.util
import logging
import threading

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

import grpojax
from grpojax import reward
from grpojax.reward import HostReward, InProcess, InThread, WeightedSum

from ..helpers import count_env, transformer
from .judges import count_sevens
from .rows import trajectory_of


WORDS = {90: "raise", 91: "hang", 92: "die", 93: "unsendable"}


def decode(ids):
    assert isinstance(ids, list)  # Python's own: the tokenizer must not meet JAX.
    return " ".join(WORDS.get(token, str(token)) for token in ids)


def failed_rows(caplog, name) -> int:
    """What the warnings add up to; each names the component."""
    records = [r for r in caplog.records if r.name.startswith("grpojax.reward")]
    assert all(r.levelno == logging.WARNING and name in r.getMessage() for r in records)
    return sum(int(r.args[1]) for r in records)


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-3))
GROUP, STEPS = 4, 20


@eqx.filter_jit
def train(paid):
    state = grpojax.init(transformer(), optimizer=OPTIMIZER, key=jr.key(0))
    return grpojax.train(
        state,
        steps=STEPS,
        reward=paid,
        env=count_env(max_completion_length=8),
        optimizer=OPTIMIZER,
        prompts=3,
        group=GROUP,
    )


class Twin(eqx.Module):
    """Pays in the graph what `Judge` pays in Python."""

    failing: Array

    def __call__(self, trajectory):
        first = trajectory.prompt.tokens[:, :1]
        bad = self.failing & ((first % 2 == 1) | (first % 32 == 0))
        rewards = WeightedSum({"target": 1.0})(trajectory)
        return dataclasses.replace(
            rewards,
            total=jnp.where(bad, -1.0, rewards.total),
            errors={"judge": jnp.broadcast_to(bad, rewards.total.shape)},
        )


class Judge:
    """Counts; when `failing`, it raises or hangs on groups of certain prompts."""

    def __init__(self):
        self.failing, self.calls, self.released = False, [], threading.Event()

    def __call__(self, prompts, completions):
        self.calls.append(len(completions))
        first = int(prompts[0].split()[0])
        if self.failing and first % 2 == 1:
            raise RuntimeError("odd")
        if self.failing and first % 32 == 0:
            self.released.wait(600)
        return count_sevens(prompts, completions)


@pytest.mark.slow
def test_a_run_equals_its_twin_in_the_graph_bit_for_bit(caplog):
    """And raising and hanging leave a finished run behind, with the right counts."""
    judge = Judge()
    limited = InThread(judge, seconds=2.0)
    asked = HostReward(limited, decode, name="judge", batch_size=GROUP)
    host = WeightedSum({"judge": 1.0}, asked)
    for failing in (False, True):
        judge.failing = failing
        there, measured = train(host)
        here, wanted = train(Twin(jnp.asarray(failing)))
        chex.assert_trees_all_equal(here, there)
        assert int(there.version) == STEPS
        for name in set(wanted) & set(measured):
            np.testing.assert_array_equal(measured[name], wanted[name], err_msg=name)
        assert bool(caplog.records) == failing
    judge.released.set()
    assert judge.calls == [GROUP] * (2 * STEPS * 3)
    assert {r.args[4] for r in caplog.records} == {"RuntimeError", "TimeoutError"}
    assert failed_rows(caplog, "judge") == measured["rewards/judge/errors"].sum() > 0


def sevens(**options):
    return HostReward(count_sevens, decode, name="sevens", **options)


def test_errors_are_counted_and_zero_is_a_number(caplog):
    rows = trajectory_of([[[7], [90, 7], [7, 7]], [[1], [90], [0]]])
    rewards = sevens(batch_size=1)(rows)
    np.testing.assert_array_equal(rewards.total, [[1, -1, 2], [0, -1, 0]])
    np.testing.assert_array_equal(rewards.errors["sevens"], [[0, 1, 0], [0, 1, 0]])
    assert failed_rows(caplog, "sevens") == 2
    assert "2 of 6 rows" in caplog.text and "cannot judge 'raise 7'" in caplog.text
    whole = sevens(on_error=0.0)(rows)  # One call: all is lost, and 0 is kept.
    assert whole.errors["sevens"].all() and not whole.total.any() and whole.valid.all()
    both = WeightedSum({"sevens": 0.5}, sevens(batch_size=3))(rows)
    np.testing.assert_array_equal(both.total, [[-0.5] * 3] * 2)
    assert int(both.errors["sevens"].sum()) == 6


@pytest.mark.parametrize(
    "answer, complaint",
    [
        ([1.0], "one number for each completion. Received 1 for 2"),
        ([1.0, float("nan")], "finite numbers. Received nan"),
        ([float("inf"), 0.0], "finite numbers. Received inf"),
        (["good", "bad"], "Error"),  # Of the type checker, when there is one.
        (None, "Error"),
    ],
)
def test_an_answer_of_another_kind_is_an_error(answer, complaint, caplog):
    wrong = HostReward(lambda **_: answer, decode, name="wrong")
    rewards = wrong(trajectory_of([[[1], [2]]]))
    assert (rewards.total == -1).all() and rewards.errors["wrong"].all()
    assert complaint in caplog.text and failed_rows(caplog, "wrong") == 2


def test_none_says_that_the_reward_does_not_apply(caplog):
    partly = HostReward(lambda **_: [None, 0, 1.0], decode, name="partly")
    rows = trajectory_of([[[1], [2], [3]]], other=[[5.0, 5.0, 5.0]])
    rewards = partly(rows)
    np.testing.assert_array_equal(rewards.valid, [[False, True, True]])
    np.testing.assert_array_equal(rewards.total, [[0, 0, 1]])
    assert not rewards.errors["partly"].any() and not caplog.records
    np.testing.assert_array_equal(WeightedSum(None, partly)(rows).total, [[5, 5, 6]])


def test_the_function_is_told_texts_and_columns():
    seen = {}

    def note(**told):
        seen.update(told)
        return [0.0] * len(told["completions"])

    rows = trajectory_of([[[4, 5, 6], [7]], [[8, 9], [3, 2]]], gold=[[1, 2], [3, 4]])
    # A reply in mid-row belongs to the text; what is past the last sampled token not.
    rows = eqx.tree_at(lambda r: r.sampled, rows, rows.sampled.at[0, 0, 1].set(False))
    columns = lambda t: {"gold": t.rewards["gold"], "where": t.prompt.tokens[:, 0]}
    HostReward(note, decode, name="note", columns=columns)(rows)
    assert seen == {
        "prompts": ["0", "0", "1", "1"],
        "completions": ["4 5 6", "7", "8 9", "3 2"],
        "completion_ids": [[4, 5, 6], [7], [8, 9], [3, 2]],
        "completion_lengths": [2, 1, 2, 2],
        "gold": [1, 2, 3, 4],
        "where": [0, 0, 1, 1],
    }


def test_two_programs_are_made_of_the_same_parts():
    """Outside of `jit` the function is called in this thread, without a callback."""
    threads = []

    def judge(prompts, completions):
        threads.append(threading.current_thread())
        return count_sevens(prompts, completions)

    judged = WeightedSum({"judge": 0.5}, HostReward(judge, decode, name="judge"))
    rows = trajectory_of([[[7], [1, 7]], [[7, 7], [2]]], other=[[1, 1], [1, 1]])
    outside = judged(rows)
    assert threads == [threading.main_thread()]
    np.testing.assert_array_equal(outside.total, [[0.5, 0.5], [1, 0]])
    chex.assert_trees_all_equal(outside, eqx.filter_jit(judged)(rows))
    assert len(threads) == 2


def test_one_call_for_all_lanes_of_vmap():
    calls = []

    def judge(prompts, completions):
        calls.append(len(completions))
        return count_sevens(prompts, completions)

    lanes = [trajectory_of([[[7], [k]], [[7, 7], [7, k]]]) for k in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *lanes)
    host = HostReward(judge, decode, name="judge")
    total = jax.jit(jax.vmap(host))(stacked).total
    np.testing.assert_array_equal(total, [[[1, 0], [2, 1]]] * 3)
    nested = jax.tree.map(lambda x: jnp.stack([x, x]), stacked)
    total = jax.vmap(jax.vmap(host))(nested).total
    np.testing.assert_array_equal(total, [[[[1, 0], [2, 1]]] * 3] * 2)
    assert calls == [12, 24]


def test_a_mesh_asks_once_about_all_rows():
    if len(jax.devices()) < 8:
        pytest.skip("A mesh of 8 devices needs 8 devices.")
    calls = []

    def judge(prompts, completions):
        calls.append(len(completions))
        return count_sevens(prompts, completions)

    rows = trajectory_of([[[7] * p, [p]] for p in range(1, 9)])
    types = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((8,), ("data",), types, devices=jax.devices()[:8])
    split = NamedSharding(mesh, PartitionSpec("data"))
    spread = jax.tree.map(lambda x: jax.device_put(x, split) if x.ndim else x, rows)
    host = HostReward(judge, decode, name="judge")
    total = jax.jit(lambda rows: host(rows).total * 2)(spread)
    wanted = [[2 * p, 2 * (p == 7)] for p in range(1, 9)]
    np.testing.assert_array_equal(total, wanted)
    assert calls == [16]


def test_a_worker_process_is_stopped_and_started_anew(caplog):
    limited = InProcess(count_sevens, seconds=5.0)
    judge = HostReward(limited, decode, name="judge", batch_size=1)
    rows = trajectory_of([[[7, 7], [91], [90], [7], [93], [7, 7, 7]]])
    rewards = judge(rows)
    np.testing.assert_array_equal(rewards.total, [[2, -1, -1, 1, -1, 3]])
    assert failed_rows(caplog, "judge") == 3
    assert "TimeoutError: no answer within 5 seconds" in caplog.text
    with pytest.raises(ValueError, match="cannot judge 'raise'"):
        limited(prompts=["0"], completions=["raise"])
    with pytest.raises(RuntimeError, match="cannot be sent"):
        limited(prompts=["0"], completions=["unsendable"])
    with pytest.raises(RuntimeError, match="the worker process died"):
        limited(prompts=["0"], completions=["die"])


def test_limits_are_checked_before_anything_runs():
    with pytest.raises(ValueError, match="importable|import it"):
        InProcess(lambda **_: [], seconds=1.0)
    for limit in (InProcess, InThread):
        with pytest.raises(ValueError, match="positive. Received seconds=0.0"):
            limit(count_sevens, 0.0)
    with pytest.raises(ValueError, match="Received 0"):
        sevens(batch_size=0)


def test_math_verify_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install 'grpojax\[math\]'"):
        reward.math_verify(decode, {})


def test_math_verify_compares_values():
    pytest.importorskip("math_verify")
    texts = ["half?", "two?", "what?", "new?"]
    texts += [r"It is $\frac{2}{4}$.", "So 0.5", r"\boxed{2}", "nothing"]
    solutions = {"half?": r"$\frac12$", "two?": "2", "what?": ""}
    judge = reward.math_verify(lambda ids: " ".join(texts[i] for i in ids), solutions)
    rewards = judge(trajectory_of([[[4], [5], [6], [7]]] * 4))
    wanted = [[1, 1, 0, 0], [0, 0, 1, 0], [0] * 4, [-1] * 4]
    np.testing.assert_array_equal(rewards.total, wanted)
    np.testing.assert_array_equal(rewards.valid, np.arange(4)[:, None] != [[2] * 4])
    assert int(rewards.errors["math_verify"].sum()) == 4
