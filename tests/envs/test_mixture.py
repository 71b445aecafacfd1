"""Environments joined to one: each conversation is that of its own environment."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from envs.addition import Addition
from envs.gsm8k import GSM8K
from envs.mixture import Mixture
from grpojax import curriculum, reward, rollout
from grpojax.rollout import RolloutConfig
from grpojax.testing import check_env
from grpojax.text import byte_table, stop_string

from ..curriculum.numbered import numbered_env
from ..helpers import transformer, UniformPolicy
from .double import PIECES


VOCABULARY = len(PIECES)
complete = eqx.filter_jit(rollout.complete)


@pytest.fixture
def tasks(tokenizer):
    """One token, one turn and one answer; long; and of two turns, with replies."""
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(2)]
    ends = range(100)
    words = GSM8K(rows, tokenizer, max_completion_length=9, end_tokens=ends)
    turns = numbered_env(
        range(60, 130),
        7,
        max_turns=2,
        reply_length=2,
        max_completion_length=7,
        vocab_size=VOCABULARY,
    )
    return {"sums": Addition(tokenizer), "words": words, "turns": turns}


@pytest.mark.slow
def test_it_keeps_the_contract(tasks):
    check_env(Mixture(tasks), key=jr.key(0))
    check_env(Mixture({"words": tasks["words"]}), key=jr.key(0))


def test_its_sizes_are_the_widest(tasks):
    env = Mixture(tasks)
    assert env.tasks == {"sums": 65, "words": 2, "turns": 7}
    assert (env.size, env.max_turns, env.max_completion_length) == (74, 2, 9)
    assert env.max_prompt_length == tasks["sums"].max_prompt_length
    assert env.vocab_size == VOCABULARY
    ends = {*range(130), *(PIECES.index(x) for x in (b"</answer>\n", b"\n\n"))}
    assert {*env.end_tokens.tolist()} == ends
    with pytest.raises(ValueError, match="at least one environment. Received {}"):
        Mixture({})


def test_rows_have_a_task(tasks):
    rows = Mixture(tasks).rows
    columns = {"a", "b", "answer", "question", "level", "task"}
    assert {*rows} == columns and rows.size == 74
    assert rows["task"] == ["sums"] * 65 + ["words"] * 2 + ["turns"] * 7
    assert rows["level"] == [None] * 67 + [0, 1, 2, 0, 1, 2, 0]


def check_conversations(policy, tasks, numbers):
    """The same tokens, ends and rewards as those of each environment alone."""
    env, numbers, key = Mixture(tasks), jnp.asarray(numbers), jr.key(1)
    states, prompts = jax.vmap(env.problem)(numbers)
    every = complete(policy, env, states, prompts, group=6, slots=5, key=key)
    first, place = 0, 0
    for name, own in tasks.items():
        inside = numbers[(numbers >= first) & (numbers < first + own.size)] - first
        states, prompts = jax.vmap(own.problem)(inside)
        alone = complete(
            policy, own, states, prompts, group=6, slots=5, key=key, first=place
        )
        found = every.take(place + jnp.arange(len(inside)))
        time, width = own.max_completion_length, own.max_prompt_length
        assert not found.sampled[..., time:].any()
        np.testing.assert_array_equal(found.tokens[..., :time], alone.tokens)
        np.testing.assert_array_equal(found.sampled[..., :time], alone.sampled)
        np.testing.assert_array_equal(found.terminated, alone.terminated)
        np.testing.assert_array_equal(found.prompt.tokens[:, :width], prompts.tokens)
        np.testing.assert_array_equal(found.prompt.length, prompts.length)
        for component, values in found.rewards.items():
            if component in alone.rewards:
                np.testing.assert_array_equal(values, alone.rewards[component])
            else:
                assert np.isnan(values).all(), (name, component)
        first, place = first + own.size, place + len(inside)
    return every


@pytest.mark.slow
def test_conversations_are_those_of_each_environment(tasks):
    policy = UniformPolicy(VOCABULARY)
    every = check_conversations(policy, tasks, [0, 1, 65, 66, 67, 68, 69, 73])
    assert len({*every.lengths.reshape(-1).tolist()}) > 2
    assert {*every.rewards} == {"correct", "format", "target", "turns"}


def test_each_task_has_its_own_stop_string():
    """And one of them none; automata of other lengths, several turns, replies."""
    pieces = [b"abcdefghij"[i % 10 :][: 1 + i % 3] for i in range(50)]
    ends = {"short": b"cd", "long": b"efghij", "none": None}
    turns = {"short": 1, "long": 1, "none": 2}
    tasks = {
        name: numbered_env(
            [49],
            7,
            stop=end and stop_string(byte_table(pieces), end),
            max_turns=turns[name],
            reply_length=turns[name] - 1,
            max_completion_length=16,
        )
        for name, end in ends.items()
    }
    numbers = [*range(5), *range(7, 12), *range(14, 17)]
    every = check_conversations(transformer(sharpen=4.0), tasks, numbers)
    text = [
        b"".join(pieces[x] for x in every.tokens[row][every.sampled[row]])
        for row in np.ndindex(len(numbers), 6)
    ]
    short, long = text[:30], text[30:60]
    assert sum(b"cd" in x for x in short) > 9 and sum(b"cd" in x for x in long) > 9
    for end, texts in ((b"cd", short), (b"efghij", long)):
        assert all(
            x.find(end) in (-1, *range(len(x) - len(end) - 1, 99)) for x in texts
        )
    check_env(Mixture(tasks), key=jr.key(0))


def test_rows_are_paid_by_the_components_that_apply(tasks):
    env = Mixture(tasks)
    states, prompts = jax.vmap(env.problem)(jnp.array([0, 67]))
    policy = UniformPolicy(VOCABULARY)
    trajectory = complete(policy, env, states, prompts, group=3, key=jr.key(0))
    rewards = reward.WeightedSum()(trajectory)
    found = trajectory.rewards
    sums = found["correct"] + found["format"], found["target"] + found["turns"]
    np.testing.assert_allclose(rewards.total[0], sums[0][0])
    np.testing.assert_allclose(rewards.total[1], sums[1][1])
    assert rewards.valid.all()
    only = reward.WeightedSum({"target": 1.0})(trajectory)
    np.testing.assert_array_equal(only.valid, [[False] * 3, [True] * 3])
    metrics = grpojax.measure(trajectory, rewards)
    mean = metrics["rewards/target/mean"]
    np.testing.assert_allclose(mean, found["target"][1].mean(), rtol=1e-6)
    grpojax.validate((trajectory, rewards), stage="rewarded")


def test_a_step_says_what_each_task_came_to(tasks):
    env, chosen = (
        Mixture(tasks),
        curriculum.Mixture({"sums": 0, "words": 1, "turns": 3}),
    )
    policy = transformer(vocab_size=VOCABULARY)
    memory, optimizer = chosen.init(env), optax.sgd(1e-3)
    state = grpojax.init(policy, optimizer=optimizer, key=jr.key(0), curriculum=memory)
    step = grpojax.TrainStep(
        env, optimizer, rollout=RolloutConfig(8, 2), curriculum=chosen, validate=True
    )
    state, metrics = eqx.filter_jit(step)(state)
    counts = [metrics[f"prompts/{task}"] for task in tasks]
    assert counts == [0, 2, 6]
    assert np.isnan(metrics["reward/sums"]) and metrics["reward/turns"] >= 1
    mean = (2 * metrics["reward/words"] + 6 * metrics["reward/turns"]) / 8
    np.testing.assert_allclose(metrics["reward"], mean, rtol=1e-6)
