"""What reward functions are called with, and how: TRL's form, async, limits."""

import asyncio
import dataclasses
import functools
import math
import threading
import time

import chex
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import reward, RolloutConfig, TrainStep
from grpojax.env import Rows
from grpojax.reward import (
    Calls,
    HostReward,
    InProcess,
    InThread,
    PermanentError,
    split,
)
from grpojax.runs.training.step import lower

from ..helpers import count_env, transformer
from .judges import count_sevens
from .rows import trajectory_of
from .test_host import decode, failed_rows


ROWS = Rows(
    {
        "answer": ["seven", "eight"],
        "level": [1, None],
        "tests": [["a", "b"], []],
        "prompts": ["not", "these"],
    }
)
MADE = trajectory_of([[[7], [7, 7]], [[8], [1]]], rows=ROWS)


def note(seen, count=4):
    def function(completions, **columns):
        seen.append({"completions": completions, **columns})
        return [0.0] * count

    return function


def test_a_function_is_called_as_trl_calls_it_with_every_column_of_its_row():
    seen = []
    host = HostReward(note(seen), decode, name="note")
    host(MADE)
    rows = {
        "prompts": ["0", "0", "1", "1"],
        "completions": ["7", "7 7", "8", "1"],
        "completion_ids": [[7], [7, 7], [8], [1]],
        "completion_lengths": [1, 2, 1, 1],
        "answer": ["seven", "seven", "eight", "eight"],
        "level": [1, 1, None, None],
        "tests": [["a", "b"], ["a", "b"], [], []],
    }
    assert seen == [rows]
    chex.assert_trees_all_equal(jax.jit(host)(MADE), host(MADE))
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), MADE)
    seen.clear()
    jax.vmap(HostReward(note(seen, 8), decode, name="note"))(stacked)
    assert seen == [{name: values * 2 for name, values in rows.items()}]


def test_rows_are_looked_up_by_the_number_of_the_problem():
    seen = []
    made = dataclasses.replace(MADE, problems=jnp.array([1, 1]))
    HostReward(note(seen), decode, name="note")(made)
    assert seen[0]["answer"] == ["eight"] * 4


def test_a_function_is_given_what_it_has_parameters_for():
    def only(completions):
        return [float(len(x)) for x in completions]

    def level(completions, *, answer, level=3, other="x"):
        del completions
        assert other == "x" and level == [1, 1, None, None]
        return [float(len(x)) for x in answer]

    def bound(completions, level):
        assert level == 9
        return [1.0] * len(completions)

    total = lambda f: HostReward(f, decode, name="f")(MADE).total.tolist()
    assert total(only) == [[1, 3], [1, 1]]
    assert total(level) == [[5, 5], [5, 5]]
    assert total(functools.partial(bound, level=9)) == [[1, 1], [1, 1]]
    assert total(InThread(only, 60.0)) == total(only)


def test_a_column_that_is_missing_is_refused_with_the_nearest():
    def near(completions, anwser, levels):
        raise AssertionError(completions, anwser, levels)

    host = HostReward(near, decode, name="near")
    message = r"'near', which needs anwser, levels.*answer, level.*is `answer`"
    for function in (host, jax.jit(host)):
        with pytest.raises(ValueError, match=message):
            function(MADE)
    with pytest.raises(ValueError, match="no columns"):
        host(trajectory_of([[[1]]]))


def test_messages_are_prompts_where_the_row_has_them():
    seen = []
    asked = [{"role": "user", "content": "How?"}]
    rows = Rows({"prompt": [asked, "text"], "more": [[{"role": 1}], [2]]})
    made = trajectory_of([[[7]], [[8]]], rows=rows)
    HostReward(note(seen, 2), decode, name="note")(made)
    assert seen[0]["prompts"] == [asked, "1"]
    said = [[{"role": "assistant", "content": "7"}], "8"]
    assert seen[0]["completions"] == said
    assert [reward.text_of(x) for x in said] == ["7", "8"]


async def slow(completions, **_):
    await asyncio.sleep(0.01)
    return [float(x.count("7")) for x in completions]


def test_async_functions_and_those_that_return_what_is_awaited():
    wanted = [[1, 2], [0, 0]]
    bound = functools.partial(slow, extra=1)
    for function in (slow, lambda **x: slow(**x), bound, InThread(slow, 9.0)):
        host = HostReward(function, decode, name="slow")
        np.testing.assert_array_equal(host(MADE).total, wanted)
        np.testing.assert_array_equal(jax.jit(host)(MADE).total, wanted)

    async def notebook():  # Where a loop runs already.
        return HostReward(slow, decode, name="slow")(MADE).total.tolist()

    assert asyncio.run(notebook()) == wanted


class Together:
    """Counts how many of its calls there are at a time, and waits for so many."""

    def __init__(self, wanted):
        self.now, self.most, self.wanted = 0, 0, wanted
        self.changed = threading.Condition()

    def __call__(self):
        with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= self.wanted, timeout=60)
            self.now -= 1


@pytest.mark.parametrize(("limit", "most"), [(None, 4), (3, 3)])
def test_async_calls_wait_together_within_their_limit(limit, most):
    together = Together(most)

    async def judge(completions):
        await asyncio.to_thread(together)
        return [1.0] * len(completions)

    options = {"batch_size": 1, "concurrency": limit}
    HostReward(judge, decode, name="judge", **options)(MADE)
    assert together.most == most


@pytest.mark.parametrize(("limit", "most"), [(None, 1), (1, 1), (2, 2)])
def test_plain_calls_are_made_in_turn_unless_told_otherwise(limit, most):
    together, threads = Together(most), set()

    def judge(completions):
        threads.add(threading.current_thread())
        together()
        return [1.0] * len(completions)

    options = {"batch_size": 1, "concurrency": limit}
    HostReward(judge, decode, name="judge", **options)(MADE)
    assert together.most == most
    assert (threads == {threading.main_thread()}) == (most == 1)


def test_a_time_limit_of_plain_and_of_async_functions(caplog):
    released = threading.Event()

    def plain(completions):
        if completions[0] == "8":
            released.wait(60)
        return [1.0]

    async def waits(completions):
        await asyncio.sleep(60 if completions[0] == "8" else 0)
        return [1.0]

    for function in (plain, waits):
        host = HostReward(function, decode, name="f", batch_size=1, seconds=1.0)
        np.testing.assert_array_equal(host(MADE).total, [[1, 1], [-1, 1]])
        assert "TimeoutError: no answer within 1 seconds" in caplog.text
        assert failed_rows(caplog, "f") == 1
        caplog.clear()
    released.set()


def test_retries_wait_longer_each_time_and_stop(monkeypatch, caplog):
    pauses, calls = [], []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def flaky(completions):
        calls.append(completions[0])
        if calls.count("8") <= 3 and completions[0] == "8":
            raise ConnectionError("away")
        return [1.0]

    options = {"batch_size": 1, "backoff": 0.5}
    host = HostReward(flaky, decode, name="flaky", retries=3, **options)
    assert not host(MADE).errors["flaky"].any() and pauses == [0.5, 1.0, 2.0]
    calls.clear()
    host = HostReward(flaky, decode, name="flaky", retries=2, **options)
    np.testing.assert_array_equal(host(MADE).errors["flaky"], [[0, 0], [1, 0]])
    assert calls.count("8") == 3 and failed_rows(caplog, "flaky") == 1
    calls.clear()

    def final(completions):
        calls.append(completions)
        raise PermanentError("for good")

    HostReward(final, decode, name="final", retries=5)(MADE)
    assert len(calls) == 1 and "PermanentError: for good" in caplog.text


def test_a_function_may_say_how_it_is_called():
    class Polite:
        calls = Calls(batch_size=2, retries=1, seconds=60.0)

        def __call__(self, completions):
            return [float(len(completions))] * len(completions)

    host = HostReward(Polite(), decode, name="polite")
    assert host(MADE).total.tolist() == [[2, 2], [2, 2]]
    host = HostReward(Polite(), decode, name="polite", batch_size=1)
    assert host(MADE).total.tolist() == [[1, 1], [1, 1]]
    assert host.calls == Calls(batch_size=1, retries=1, seconds=60.0)
    with pytest.raises(ValueError, match="`Calls.concurrency` must be at least 1"):
        HostReward(Polite(), decode, name="polite", concurrency=0)


# The dry call


def dry(function, **options):
    host = HostReward(function, decode, name="mine", **options)
    shapes = jax.eval_shape(host.inputs, MADE)
    prompt = jax.tree.map(lambda x: np.asarray(x)[0], MADE.prompt)
    split.dry_call(host, [shapes], prompt)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions: 1.0 + completions, "TypeError from a call on one row"),
        (lambda completions: [x + "!" for x in completions], "could not convert"),
        (lambda completions: [2.0, *map(len, completions)], "Received 2 for 1"),
        (lambda completions: [[x] for x in completions], "TypeError"),
        (lambda completions: completions.clear(), "TypeError"),
        (lambda completions: [math.nan for _ in completions], "Received nan"),
    ],
)
def test_a_dry_call_refuses_what_cannot_be_called(function, message):
    with pytest.raises(ValueError, match=f"'mine' must return.*{message}"):
        dry(function)


def test_a_dry_call_sees_one_row_and_forgives_what_may_be_due_to_it(caplog):
    seen = []
    dry(note(seen, 1), columns=lambda t: {"first": t.tokens[:, :, 0]})
    assert seen == [
        {
            "prompts": ["0"],
            "completions": ["0"],
            "completion_ids": [[0]],
            "completion_lengths": [1],
            "answer": ["seven"],
            "level": [1],
            "tests": [["a", "b"]],
            "first": [0],
        }
    ]
    dry(slow)
    dry(lambda completions: [None for _ in completions])
    assert not caplog.records

    def away(completions):
        raise ConnectionError(f"no server for {completions}")

    dry(away, retries=5)
    assert "failed on one row before the first step. ConnectionError" in caplog.text


def test_a_worker_process_gets_columns_too():
    judge = InProcess(count_sevens, seconds=60.0)
    total = HostReward(judge, decode, name="judge")(MADE).total
    np.testing.assert_array_equal(total, [[1, 2], [0, 0]])


def test_rewards_that_wait_do_so_together_and_others_in_turn():
    barrier, threads = threading.Barrier(2, timeout=60), []

    async def waits(completions):
        await asyncio.to_thread(barrier.wait)
        return [1.0] * len(completions)

    def plain(completions):
        threads.append(threading.current_thread())
        return [2.0] * len(completions)

    hosts = [HostReward(waits, decode, name=name) for name in ("a", "b")]
    hosts.insert(1, HostReward(plain, decode, name="c"))
    optimizer = optax.sgd(0.1)
    step = TrainStep(
        count_env(max_completion_length=2),
        optimizer,
        rollout=RolloutConfig(2, 2),
        reward=reward.WeightedSum(None, *hosts),
    )
    state = grpojax.init(transformer(), optimizer=optimizer, key=jr.key(0))
    _, metrics, _ = lower(state, step).compile().call(state)
    means = [float(metrics[f"rewards/{name}/mean"]) for name in "acb"]
    assert means == [1, 2, 1] and threads == [threading.main_thread()]
