"""Ids beyond the environment's vocabulary: never sampled, and of no probability."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import policy as policies, rollout, RolloutConfig, update
from grpojax.runs.io.samples import token_pieces
from grpojax.text import load_tokenizer

from .helpers import count_env, mostly_slow, transformer


OPTIMIZER = optax.adam(3e-3)


def narrow(vocab_size: int):
    """An environment of fewer tokens than the policy, which has 50."""
    return dataclasses.replace(count_env(), vocab_size=vocab_size)


def start():
    return grpojax.init(transformer(), optimizer=OPTIMIZER, key=jr.key(0))


@pytest.mark.laws
@pytest.mark.parametrize("vocab_size", mostly_slow([17, 33, 44], [17]))
@pytest.mark.parametrize(
    "sampler",
    [
        rollout.Categorical(1.7),
        pytest.param(rollout.Greedy(), marks=pytest.mark.slow),
    ],
)
def test_recorded_log_probs_are_those_of_the_narrower_softmax(vocab_size, sampler):
    policy, env = transformer(), narrow(vocab_size)
    config = RolloutConfig(prompts=4, group=3, slots=5, sampler=sampler)
    sample = eqx.filter_jit(rollout.generate)
    found = sample(policy, env, config, key=jr.key(1))
    assert int(found.tokens.max()) < vocab_size
    unbounded = sample(policy, narrow(50), config, key=jr.key(1))
    assert int(unbounded.tokens.max()) >= vocab_size  # It would have been drawn.

    def scored(prompt, tokens):
        score = lambda row: policies.log_prob(
            policy,
            prompt,
            row,
            temperature=found.temperature,
            vocab_size=found.vocab_size,
        )
        return jax.vmap(score)(tokens)

    log_prob = jax.jit(jax.vmap(scored))(found.prompt, found.tokens)
    mask = np.asarray(found.sampled)
    np.testing.assert_allclose(found.log_prob[mask], log_prob[mask], atol=1e-5)


@pytest.mark.laws
def test_the_update_scores_the_distribution_that_was_sampled():
    """Scored over all of the policy's logits, the gap would be tenths of a nat."""
    config, env = RolloutConfig(prompts=4, group=4), narrow(33)
    collect, learn = eqx.filter_jit(grpojax.collect), eqx.filter_jit(grpojax.learn)
    made = collect(start(), env, rollout=config)
    recomputed = update.UpdateConfig(recompute=True, epochs=2, tokens=16)
    for settings in (update.UpdateConfig(), recomputed):
        _, metrics = learn(start(), made, OPTIMIZER, update=settings)
        assert float(metrics["sampling/sampling_logp_difference/max"]) <= 1e-5
        assert all(np.isfinite(x) for x in jax.device_get(metrics).values())
    wide = dataclasses.replace(
        made, trajectory=dataclasses.replace(made.trajectory, vocab_size=None)
    )
    _, metrics = learn(start(), wide, OPTIMIZER)
    assert float(metrics["sampling/sampling_logp_difference/mean"]) > 0.1
    kl = eqx.filter_jit(update.KLReward(start().policy))(made.trajectory)
    np.testing.assert_allclose(kl.components["kl"], 0, atol=1e-5)


def test_a_masked_logit_has_no_gradient():
    logits, token = jr.normal(jr.key(0), (8,)), jnp.array(2)

    def score(logits, vocab_size):
        log_prob, entropy = policies.token_log_prob(logits, token, 0.7, vocab_size)
        return log_prob + 0.3 * entropy

    gradient = jax.grad(score)(logits, 5)
    np.testing.assert_array_equal(gradient[5:], 0)
    np.testing.assert_allclose(gradient[:5], jax.grad(score)(logits[:5], None))


@pytest.mark.parametrize("token", [-1, 10_000, 2**31 - 1])
def test_whatever_shows_tokens_survives_any_id(token):
    tokenizer = load_tokenizer("grpojax/assets/gsm8k-tiny")
    known = tokenizer.encode("so 4")
    assert tokenizer.decode([*known, token]) == tokenizer.decode(known)
    assert tokenizer.token_bytes.join([token]) == b""
    assert token_pieces([token], tokenizer) == [f"<{token}>"]
    assert tokenizer.piece(token) is None
