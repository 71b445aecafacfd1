"""Conversations that Python answers: laws, failures, runs."""

import json
import random
import threading
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import rollout, runs, sharding
from grpojax.host import HostEnvironment, Reply

from .doubles import bigram, numbers, REPLY, ROWS, TOKENIZER


class Asks:
    """Replies twice, after a random time; the last letter of each turn pays."""

    alive: set = set()
    slow = 0.0

    def reset(self, row):
        assert row["text"] == ROWS["text"][row["number"]]
        self.alive.add(self)
        self.turns = 0

    def step(self, messages):
        self.turns += 1
        time.sleep(random.random() * self.slow)
        assert [x["role"] for x in messages] == ["user", "assistant"] * self.turns
        paid = float(messages[-1]["content"][-1:] < "n")
        return REPLY, paid, self.turns == 3

    def close(self):
        self.alive.remove(self)


class AsksInText:
    """The same, asynchronous, of the text of all tokens."""

    def reset(self, row):
        self.row, self.turns = row, 0

    async def step(self, text):
        self.turns += 1
        assert text.count(REPLY) == self.turns - 1
        assert text[0] == str(self.row["number"])
        return Reply(REPLY, 0.25, self.turns == 3)


class Shared:
    """One object for all rows, with a state for each."""

    def reset(self, row):
        made = Asks()
        made.reset(row)
        return made

    def step(self, messages):
        raise AssertionError(messages)


def hosted(host=Asks, **options):
    options = {"max_turns": 3, "chat": False, **options}
    return HostEnvironment(numbers(), host, TOKENIZER, **options)


def sampled(env, *, slots=4, prompts=4, key=1, policy=None):
    config = grpojax.RolloutConfig(prompts=prompts, group=2, slots=slots)
    return rollout.generate(policy or bigram(), env, config, key=jr.key(key))


def assert_same(found, expected):
    for name in ("tokens", "sampled", "terminated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=1e-6)


@pytest.mark.laws
def test_it_is_the_trajectory_of_an_environment_in_the_graph(monkeypatch):
    # Only replies of turns that are over are read, so the last one is not.
    expected = sampled(numbers(max_turns=3), slots=None)
    assert (np.asarray(expected.sampled)[..., -1] == 0).any()
    for slots, host, slow in ((None, Asks, 0.0), (3, Asks, 0.02), (3, Shared, 0.0)):
        monkeypatch.setattr(Asks, "slow", slow)
        found = sampled(hosted(host), slots=slots)
        assert_same(found, expected)
        assert not Asks.alive
        assert not found.dropped.any() and set(found.rewards) == {
            "early",
            "environment",
        }
    # What the last turn pays, and the sum of what all of them do.
    total = expected.rewards["early"]
    np.testing.assert_array_equal(found.rewards["environment"], total)
    assert (found.rewards["early"] <= total).all()
    text = sampled(hosted(AsksInText))
    assert_same(text, expected)
    # Turns are counted alike, by their ends or by their tokens.
    counts = [measured(x) for x in (expected, found)]
    assert counts[0] == counts[1] and counts[0]["num_turns/max"] == 3


def measured(trajectory):
    judged = grpojax.reward.checked(grpojax.reward.WeightedSum(), trajectory)
    found = grpojax.measure(trajectory, judged)
    return {k: float(x) for k, x in found.items() if k.startswith("num_turns/")}


class Fails:
    """Does what its row says."""

    hang = threading.Event()

    def reset(self, row):
        self.number = row["number"]
        if self.number == 1:
            raise OSError("no shell")

    def step(self, messages):
        match self.number:
            case 2:
                raise RuntimeError("broken \ud800")
            case 3:
                self.hang.wait(20)
            case 4:
                return "x" * 2**20
            case 5:
                return "a\ud800b", 0.0, len(messages) > 3
            case 6:
                return None
            case 7:
                return 1, "a", 3, 4
        return Reply(reward=1.0)

    def close(self):
        if self.number == 0:
            raise OSError("cannot close")


def test_what_fails_costs_its_row_alone(caplog):
    env = hosted(Fails, seconds=0.5)
    problems = jnp.arange(8)
    config = grpojax.RolloutConfig(prompts=8, group=2, slots=8)
    with caplog.at_level("WARNING"):
        found = rollout.generate(
            bigram(), env, config, problems=problems, key=jr.key(0)
        )
    Fails.hang.set()
    assert found.counts["errors"].all(axis=1).tolist() == [
        *(False, True, True, True),
        *(False, False, False, True),
    ]
    assert found.counts["rejected"].all(axis=1).tolist() == [False] * 6 + [True, False]
    assert "failed on 8 of 16 rows" in caplog.text and "cannot close" in caplog.text
    dropped = np.asarray(found.dropped)
    assert dropped.all(axis=1).tolist() == [
        False,
        *[True] * 3,
        False,
        False,
        True,
        True,
    ]
    # A megabyte is cut at the horizon, and its row is truncated.
    tokens, own = np.asarray(found.tokens[4]), np.asarray(found.sampled[4])
    assert (tokens[:, -1] == TOKENIZER.encode("x")[0]).all() and not own[:, -1].any()
    assert not found.terminated[4].any()
    text = TOKENIZER.decode(found.tokens[5, 0].tolist())
    assert "a?b" in text
    judged = grpojax.reward.checked(grpojax.reward.WeightedSum(), found)
    np.testing.assert_array_equal(judged.valid, ~dropped)
    metrics = grpojax.measure(found, judged)
    assert metrics["rewards/environment/errors"] == 8
    assert metrics["environment/rejected"] == 2
    advantages = grpojax.algorithms.grpo().advantage(judged)
    assert (np.asarray(advantages)[dropped] == 0).all()


def fit(out=None, *, steps, host=Asks, mesh=None, **options):
    optimizer = optax.sgd(0.1)
    step = grpojax.TrainStep(
        hosted(host),
        optimizer,
        rollout=grpojax.RolloutConfig(prompts=4, group=2, slots=4),
    )
    state = grpojax.init(bigram(), optimizer=optimizer, key=jr.key(0))
    if mesh is not None:
        state = sharding.place(state, mesh)
    options = {"checkpoint": runs.Checkpointing(every=2), **options}
    return grpojax.fit(state, step, steps=steps, out=out, **options)


def records(path):
    found = [json.loads(x) for x in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in x.items() if "time" not in k} for x in found]


def test_a_run_trains_and_resumes_to_the_last_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(Asks, "slow", 0.01)
    evaluation = runs.Evaluation(hosted(), problems=3, batch=3)
    full = fit(tmp_path / "full", steps=4, evaluation=evaluation)
    monkeypatch.setattr(Asks, "slow", 0.0)
    fit(tmp_path / "half", steps=2)
    assert int(full.version) == 4 and len(records(tmp_path / "full")) == 4
    half = fit(tmp_path / "half", steps=4, resume=True)
    chex_equal(half.policy, full.policy)
    assert records(tmp_path / "half") == records(tmp_path / "full")
    (line, _) = (tmp_path / "full" / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(line)["n"] == 3 and not Asks.alive


def chex_equal(a, b):
    both = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    assert all(np.array_equal(x, y) for x, y in both)


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_on_a_mesh():
    mesh = sharding.make_mesh(data=2, devices=jax.devices()[:2])
    one, two = fit(steps=2), fit(steps=2, mesh=mesh)
    np.testing.assert_allclose(two.policy.table, one.policy.table, atol=1e-6)


def test_what_does_not_fit_is_refused(tmp_path):
    env = hosted()
    step = grpojax.TrainStep(
        env, optax.sgd(0.1), rollout=grpojax.RolloutConfig(prompts=2, group=2)
    )
    state = grpojax.init(bigram(), optimizer=step.optimizer, key=jr.key(0))
    partial = grpojax.RolloutConfig(prompts=2, group=2, partial_prompts=2)
    with pytest.raises(ValueError, match="partial_prompts or actors"):
        grpojax.TrainStep(env, optax.sgd(0.1), rollout=partial)
    with pytest.raises(Exception, match="asked between programs"):
        eqx.filter_jit(step)(state)
    for options, message in {
        "without `step`": ({"host": 3}, "has a method `step`"),
        "a template": ({"chat": True}, "a tokenizer without one"),
        "time": ({"seconds": 0.0}, "above 0"),
        "turns": ({"max_turns": 0}, "max_turns"),
    }.values():
        with pytest.raises(ValueError, match=message):
            hosted(**options)
    with pytest.raises(ValueError, match="that has one"):
        HostEnvironment(numbers(max_turns=2), Asks, TOKENIZER, chat=False)

    class Wrong(Asks):
        def __init__(self, port):
            del port

    with pytest.raises(ValueError, match="made without arguments"):
        fit(tmp_path / "run", steps=1, host=Wrong)
    assert not (tmp_path / "run").exists()
