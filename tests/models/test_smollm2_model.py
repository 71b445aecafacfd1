"""A real model: SmolLM2-135M-Instruct computes what it does in `transformers`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grpojax import models, policy
from grpojax.policy import Past


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(smollm2):
    return models.load(smollm2, dtype="float32")


def test_logits_and_log_probs(model, golden):
    ids = golden["input_ids"]
    logits = eqx.filter_jit(policy.logits)(model, ids)
    assert np.abs(logits[0] - golden["logits_first"]).max() < 2e-3
    assert np.abs(logits[-1] - golden["logits_last"]).max() < 2e-3
    scored = eqx.filter_jit(policy.log_prob)(model, ids[:1], ids[1:])
    assert np.abs(scored - golden["token_logprobs"]).max() < 2e-3


def test_greedy_continuation(model, golden):
    prompt, expected = jnp.asarray(golden["input_ids"]), golden["greedy"]
    length, steps = len(prompt), len(expected) - len(prompt)
    columns = jnp.arange(steps)

    @eqx.filter_jit
    def continuation(model):
        _, context = model.extend(prompt[:-1], jnp.arange(length - 1))

        def step(carry, t):
            token, cache = carry
            read = Past(context, jnp.ones((1, length - 1), bool))
            own = Past(cache, (columns < t)[None])
            hidden, written = model.extend(token[None], length - 1 + t[None], read, own)
            cache = model.write(cache, written, t)
            token = jnp.argmax(model.logits(hidden[0])).astype(token.dtype)
            return (token, cache), token

        start = (prompt[-1], policy.empty_cache(model, steps))
        return jax.lax.scan(step, start, columns)[1]

    np.testing.assert_array_equal(continuation(model), expected[length:])


def test_there_and_back_bit_for_bit(smollm2, tmp_path):
    stored = models.load(smollm2)
    models.save(stored, tmp_path)
    assert stored.compute_dtype == "bfloat16"
    assert eqx.tree_equal(models.load(tmp_path), stored)
