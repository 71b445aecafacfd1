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
LOG_PROBS = {"old": SAID.log_prob, "behavior": SAID.log_prob}
WEIGHT = update.token_mean(SAID.sampled)
GOOD = {
    "rollout": SAID,
    "rewarded": (SAID, PAID),
    "advantaged": (SAID, PAID, ADVANTAGES),
    "train_step": (SAID.sampled, WEIGHT, ADVANTAGES[..., None], {}),
    "train_ready": (SAID.sampled, WEIGHT, ADVANTAGES[..., None], LOG_PROBS),
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


def update_inputs(weight=WEIGHT, advantages=ADVANTAGES[..., None], **log_probs):
    return SAID.sampled, weight, advantages, LOG_PROBS | log_probs


LONG = Prompt(SAID.prompt.tokens, SAID.prompt.length.at[2].set(9))
NAN, HIGH = SAID.log_prob.at[0, 0, 0].set(jnp.nan), SAID.log_prob.at[1, 0, 0].set(0.5)
LEFT = SAID.sampled[:, :, ::-1]
INFINITE = ADVANTAGES[..., None] / 0
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
        ("rollout", said(log_prob=SAID.log_prob - 1), "0 where no token was sampled"),
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
        ("advantaged", (SAID, UNPAID, ADVANTAGES + 9), "not valid has advantage 0"),
        ("train_step", update_inputs(weight=WEIGHT + 1), "0 outside the mask"),
        (
            "train_step",
            update_inputs(advantages=INFINITE),
            "advantage is finite",
        ),
        (
            "train_ready",
            update_inputs(old=SAID.log_prob + 9),
            "`old` is finite and at most 0",
        ),
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
        (paid(total=PAID.total * jnp.nan), "stage 'rewarded': .*total is finite"),
        (
            (said(version=SAID.version - 1), PAID),
            "stage 'rollout': .*`version` is at least 0",
        ),
    ):
        with pytest.raises(Exception, match=f"step 7, {words}"):
            jax.block_until_ready(check(value))


def test_the_last_stage_checks_all_stages_before_it():
    """A step validates once."""
    for value, words in (
        ((said(log_prob=NAN), PAID, ADVANTAGES), "`log_prob` is finite"),
        ((*paid(total=PAID.total * jnp.nan), ADVANTAGES), "total is finite"),
        ((SAID, PAID, ADVANTAGES / 0), "advantages are finite"),
    ):
        with pytest.raises(grpojax.ValidationError, match=words):
            grpojax.validate(value, stage="advantaged")


@pytest.mark.parametrize("step", [7, jnp.asarray(7)])
def test_the_number_of_the_step_may_be_traced(step):
    check = eqx.filter_jit(
        lambda x, step: grpojax.validate(x, stage="rewarded", step=step)
    )
    assert eqx.tree_equal(check((SAID, PAID), step), (SAID, PAID))
    for value, words in (
        (paid(total=PAID.total * jnp.nan), "stage 'rewarded': .*total is finite"),
        (
            (said(tokens=SAID.tokens - 50), PAID),
            "stage 'rollout': .*token ids are at least 0",
        ),
    ):
        with pytest.raises(Exception, match=f"step 7, {words}"):
            jax.block_until_ready(check(value, step))
        with pytest.raises(grpojax.ValidationError, match=f"step 7, {words}"):
            grpojax.validate(value, stage="rewarded", step=step)


def test_under_vmap_the_step_of_a_violation_is_named():
    """The other lanes, in which all is well, have larger numbers."""
    totals = jnp.stack([PAID.total, PAID.total * jnp.nan, PAID.total])

    def check(total, step):
        value = SAID, dataclasses.replace(PAID, total=total)
        return grpojax.validate(value, stage="rewarded", step=step)[1].total

    run = eqx.filter_jit(jax.vmap(check))
    with pytest.raises(Exception, match="step 4, stage 'rewarded': the total is"):
        jax.block_until_ready(run(totals, jnp.array([9, 4, 9])))


@pytest.mark.parametrize(
    "stage, value, words",
    [
        ("rolled", SAID, "'rolled'"),
        ("rewarded", SAID, r"Received \(Trajectory\)"),
        (
            "train_step",
            update_inputs(weight=None),
            "Array.*, NoneType, .*Array.*, dict",
        ),
        ("train_step", update_inputs(weight=WEIGHT[:3]), r"Received \(3, 4, "),
        (
            "train_ready",
            GOOD["train_step"],
            r"Received \[\]. Take the sampler's record",
        ),
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
    said = jax.lax.optimization_barrier(said)
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
    with pytest.raises(Exception, match="stage 'rollout': `log_prob` is finite"):
        jax.block_until_ready(step(start(broken), **FIXED, validate=True))
