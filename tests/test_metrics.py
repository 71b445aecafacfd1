"""Every metric that a step returns is documented, and every documented one returned."""

import dataclasses
import re
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from envs.addition import Addition
from envs.mixture import Mixture
from grpojax import models, reward, update
from grpojax.host import HostEnvironment, Tools
from grpojax.types import Rewards

from .envs.double import ByteTokenizer
from .helpers import count_env
from .update.doubles import bigram, random_trajectory


DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"


def judge(**_):
    raise RuntimeError("not called while tracing")


def add(a: int, b: int) -> int:
    """The sum.

    Args:
        a: a number.
        b: another one.
    """
    return a + b


def step_names(
    env=None, optimizer=optax.sgd(0.1), policy=None, staleness=0, **options
) -> set[str]:
    policy, env = policy or bigram(vocab=300), env or count_env()

    def step():
        rollout = grpojax.RolloutConfig(3, 4, staleness=staleness)
        step = grpojax.TrainStep(env, optimizer, rollout=rollout, **options)
        return step(step.init(policy, reference=policy, key=jr.key(0)))

    return set(eqx.filter_eval_shape(step)[1])


def documented() -> set[str]:
    rows = re.findall(r"^\| `(.+?)` \| (.*?) \|", DOCUMENT.read_text(), re.MULTILINE)
    names = [name for name, _ in rows]
    assert len(names) == len(set(names))
    return set(names)


def test_the_document_lists_what_a_step_returns():
    penalties = update.KL(), update.LoadBalance(), update.Distill()
    objective = update.Objective(penalties=penalties, importance=update.Importance())
    config = models.TransformerConfig(300, 8, 8, 1, 2, 1, 4)
    block = models.Block(experts=models.Experts(2, 1, 4))
    config = dataclasses.replace(config, block=block)
    grpo = grpojax.algorithms.grpo()
    sums = Addition(ByteTokenizer())
    everything = step_names(
        Mixture({"one": sums, "two": sums}),
        staleness=1,
        algorithm=eqx.tree_at(lambda a: a.objective, grpo, objective),
        optimizer=update.with_learning_rate(optax.sgd(0.1), 0.1),
        policy=models.Transformer(config, key=jr.key(0)),
        teacher=bigram(vocab=300),
        reward=reward.WeightedSum(None, reward.HostReward(judge, str, name="judged")),
    )
    tools = HostEnvironment(sums, Tools([add]), ByteTokenizer(), chat=False)
    everything |= step_names(tools)
    names = {
        re.sub(r"^rewards/\w+/", "rewards/<component>/", name) for name in everything
    }
    names = {re.sub(r"/(one|two)$", "/<task>", name) for name in names}
    assert names == documented()
    # Some are returned only where their part is configured.
    plain = step_names()
    optional = "kl", "learning_rate", "staleness/max", "num_turns/mean"
    for name in (*optional, "router/balance_loss", "router/max_load", "teacher/kl"):
        assert name in everything and name not in plain
    assert not any("importance" in name or "errors" in name for name in plain)


def test_measure_counts_rows():
    trajectory = random_trajectory(bigram())
    components = {
        "correct": trajectory.rewards["correct"],
        "sometimes": jnp.ones((4, 4)),
    }
    components["sometimes"] = components["sometimes"].at[:2].set(jnp.nan)
    rewards = Rewards(
        total=components["correct"].at[3].set(2.0),
        components=components,
        weights={name: jnp.ones(()) for name in components},
        valid=jnp.ones((4, 4), bool).at[0, 0].set(False),
        keep=jnp.zeros((4, 4), bool),
        lengths=trajectory.lengths,
        errors={"sometimes": jnp.zeros((4, 4), bool).at[1].set(True)},
    )
    got = grpojax.measure(trajectory, rewards)
    total, length = np.asarray(rewards.total), np.asarray(trajectory.lengths)
    valid, right = np.asarray(rewards.valid), np.asarray(components["correct"]) > 0
    np.testing.assert_allclose(got["reward"], total[valid].mean(), rtol=1e-6)
    groups = [row[keep].std(ddof=1) for row, keep in zip(total, valid, strict=True)]
    np.testing.assert_allclose(got["reward_std"], np.mean(groups), rtol=1e-6)
    flat = np.mean([std == 0 for std in groups])
    assert got["frac_reward_zero_std"] == flat and flat >= 0.25
    assert got["rewards/sometimes/mean"] == 1 and got["rewards/sometimes/std"] == 0
    assert got["rewards/sometimes/errors"] == 4
    assert int(got["num_tokens"]) == length.sum()
    ended = np.asarray(trajectory.terminated)
    assert got["completions/clipped_ratio"] == pytest.approx(1 - ended.mean())
    everyone = np.ones_like(ended)
    for kind, rows in (
        ("", everyone),
        ("terminated_", ended),
        ("correct_", right),
        ("wrong_", ~right),
    ):
        for name in ("mean", "min", "max"):
            wanted = getattr(length[rows], name)()
            found = got[f"completions/{name}_{kind}length"]
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
