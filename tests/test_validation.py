"""Run-time invariants: refused on the host, carried along inside a program."""

import dataclasses
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import advantage, reward, rollout, update
from grpojax.types import Prompt

from .helpers import count_env
from .update.doubles import bigram, random_trajectory


POLICY = bigram(vocab=50)
SAID = random_trajectory(POLICY)
PAID = reward.WeightedSum()(SAID)
ADVANTAGES = advantage.GroupNormalized()(PAID)
OBJECTIVE = update.Objective()
BATCH = update.Batch(ADVANTAGES[..., None], SAID.sampled, SAID.log_prob, SAID.log_prob)
WEIGHTS = OBJECTIVE.loss_weights(BATCH)
GOOD = {
    "rollout": SAID,
    "rewarded": (SAID, PAID),
    "advantaged": (SAID, PAID, ADVANTAGES),
    "train_step": (dataclasses.replace(BATCH, old=None), WEIGHTS),
    "train_ready": (BATCH, WEIGHTS),
}


@pytest.mark.parametrize("stage", GOOD)
def test_good_values_pass_as_they_are(stage):
    assert grpojax.validate(GOOD[stage], stage=stage, step=3) is GOOD[stage]


def test_what_the_engine_says_is_valid():
    env = count_env(max_turns=2, reply_length=2)
    config = rollout.RolloutConfig(prompts=3, group=2)
    said = eqx.filter_jit(rollout.generate)(POLICY, env, config, key=jr.key(0))
    grpojax.validate(said, stage="rollout")


def said(**changes):
    return dataclasses.replace(SAID, **changes)


def paid(**changes):
    return SAID, dataclasses.replace(PAID, **changes)


def batch(**changes):
    return dataclasses.replace(BATCH, **changes), WEIGHTS


def weights(**changes):
    return BATCH, dataclasses.replace(WEIGHTS, **changes)


LONG = Prompt(SAID.prompt.tokens, SAID.prompt.length.at[2].set(9))
NAN, HIGH = SAID.log_prob.at[0, 0, 0].set(jnp.nan), SAID.log_prob.at[1, 0, 0].set(0.5)
LEFT = SAID.sampled[:, :, ::-1]
UNPAID = dataclasses.replace(PAID, valid=PAID.valid.at[2, 1].set(False))


@pytest.mark.parametrize(
    "stage, value, words",
    [
        (
            "rollout",
            said(prompt=LONG),
            r"prompt's length .* Received 9 at index \(2,\)",
        ),
        ("rollout", said(log_prob=NAN), r"finite and at most 0 .* Received nan"),
        ("rollout", said(log_prob=HIGH), r"Received 0.5 at index \(1, 0, 0\); 1 of"),
        ("rollout", said(sampled=LEFT), "first position is sampled"),
        ("rollout", said(log_prob=SAID.log_prob - 1), "0 where nothing was sampled"),
        ("rollout", said(version=SAID.version - 1), "`version` is at least 0"),
        ("rollout", said(tokens=SAID.tokens - 50), "token ids are at least 0"),
        ("rollout", said(terminated=~SAID.terminated), "has sampled a token"),
        ("rollout", said(rewards={"r": jnp.full((4, 4), jnp.inf)}), "reward 'r'"),
        ("rewarded", paid(total=PAID.total * jnp.nan), "total is finite"),
        ("rewarded", paid(lengths=PAID.lengths + 1), "`lengths` counts"),
        (
            "rewarded",
            paid(components={"r": jnp.full((4, 4), jnp.inf)}),
            "component 'r'",
        ),
        ("advantaged", (SAID, PAID, ADVANTAGES / 0), "advantages are finite"),
        ("advantaged", (SAID, UNPAID, ADVANTAGES + 9), "not valid has the advantage 0"),
        ("train_step", weights(token=WEIGHTS.token + 1), "0 outside the mask"),
        ("train_step", batch(advantage=BATCH.advantage / 0), "advantage is finite"),
        ("train_ready", batch(old=BATCH.old + 9), "`old` is finite and at most 0"),
    ],
)
def test_broken_invariants_are_named_with_step_and_stage(stage, value, words):
    with pytest.raises(ValueError, match=f"step 12, stage '{stage}'.*{words}") as error:
        grpojax.validate(value, stage=stage, step=12)
    assert isinstance(error.value, grpojax.ValidationError)


def test_inside_a_program_the_error_names_the_first_broken_invariant():
    check = jax.jit(lambda x: grpojax.validate(x, stage="rewarded", step=7))
    assert eqx.tree_equal(check((SAID, PAID)), (SAID, PAID))
    for value, words in (
        (paid(total=PAID.total * jnp.nan), "total is finite"),
        ((said(version=SAID.version - 1), PAID), "`version` is at least 0"),
    ):
        with pytest.raises(Exception, match=f"step 7, stage 'rewarded': .*{words}"):
            jax.block_until_ready(check(value))


@pytest.mark.parametrize(
    "stage, value, words",
    [
        ("rolled", SAID, "'rolled'"),
        ("rewarded", SAID, r"Received \(Trajectory\)"),
        ("train_step", (BATCH,), r"Received \(Batch\)"),
        ("train_ready", batch(old=None), "Score the batch before the first update"),
        (
            "advantaged",
            (SAID, PAID, ADVANTAGES[:3]),
            r"with \{'prompt': 4, 'group': 4\}",
        ),
        ("advantaged", (SAID, PAID, ADVANTAGES[0]), r"Received \(4,\)"),
    ],
)
def test_what_is_no_value_of_the_stage_is_refused(stage, value, words):
    # With its type checker on, the signature refuses the first one sooner.
    with pytest.raises((ValueError, TypeError), match=words):
        grpojax.validate(value, stage=stage)


OPTIMIZER = optax.sgd(0.1)
ROLLOUT = rollout.RolloutConfig(prompts=3, group=4)
FIXED = dict(env=count_env(), optimizer=OPTIMIZER, rollout=ROLLOUT)


def start(policy=POLICY):
    return grpojax.init(policy, optimizer=OPTIMIZER, key=jr.key(0))


def program(step, **fixed) -> str:
    text = eqx.filter_jit(step).lower(start(), **FIXED, **fixed).as_text()
    return re.sub(r"module @\w+", "module", text)


def by_hand(state, *, env, optimizer, rollout):
    """The four arrows without a word about validation."""
    said = grpojax.rollout.generate(
        state.policy,
        env,
        rollout,
        version=state.version,
        key=jr.fold_in(state.key, state.version),
    )
    algorithm = grpojax.algorithms.grpo()
    rewards = jax.lax.optimization_barrier(reward.WeightedSum()(said))
    measured = grpojax.measure(said, rewards)
    advantages = algorithm.advantage(rewards)
    keep = algorithm.select(rewards)
    policy, opt_state, metrics = update.improve(
        state.policy,
        state.opt_state,
        said,
        advantages,
        keep,
        objective=algorithm.objective,
        optimizer=optimizer,
    )
    after = grpojax.TrainState(
        policy, opt_state, state.reference, state.version + 1, state.key
    )
    return after, {**measured, **metrics}


def test_the_program_is_the_same_when_it_is_off():
    off = program(grpojax.train_step, validate=False)
    assert off == program(grpojax.train_step) == program(by_hand)
    assert "callback" in program(grpojax.train_step, validate=True)


def test_it_stops_a_step_inside_its_program():
    step = eqx.filter_jit(grpojax.train_step)
    good, metrics = step(start(), **FIXED, validate=True)
    np.testing.assert_allclose(metrics["skipped_updates"], 0)
    broken = eqx.tree_at(lambda p: p.table, POLICY, POLICY.table * jnp.nan)
    with pytest.raises(Exception, match="stage 'advantaged': `log_prob` is finite"):
        jax.block_until_ready(step(start(broken), **FIXED, validate=True))
