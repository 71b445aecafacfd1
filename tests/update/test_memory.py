"""Memory of the update, as the compiler reports it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

from grpojax import update
from grpojax.models import Transformer, TransformerConfig

from .doubles import bigram, random_trajectory


TIME, GROUP = 16, 2


def temporary_bytes(vocab: int, prompts: int, chunk: int) -> int:
    """Of one update of a transformer; nothing is computed."""
    config = TransformerConfig(
        vocab_size=vocab,
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
    )
    optimizer = optax.sgd(1.0)

    def arguments():
        policy = Transformer(config, key=jr.key(0))
        opt_state = optimizer.init(eqx.filter(policy, eqx.is_inexact_array))
        trajectory = random_trajectory(bigram(vocab=4), prompts, GROUP, TIME)
        return policy, opt_state, trajectory

    def improve(arrays):
        policy, opt_state, trajectory = eqx.combine(arrays, static)
        result = update.improve(
            policy,
            opt_state,
            trajectory,
            jnp.ones((prompts, GROUP)),
            objective=update.Objective(entropy_bonus=0.01),
            optimizer=optimizer,
            config=update.UpdateConfig(chunk=chunk),
        )
        return eqx.filter(result, eqx.is_array)

    shapes = eqx.filter_eval_shape(arguments)
    is_shape = lambda x: isinstance(x, jax.ShapeDtypeStruct)
    arrays, static = eqx.partition(shapes, is_shape)
    compiled = jax.jit(improve).lower(arrays).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_does_not_grow_with_vocabulary_times_batch():
    """The mixed difference: terms that grow with one of the two alone cancel."""
    vocab, more_vocab, prompts, more_prompts = 256, 1024, 4, 16
    both = temporary_bytes(more_vocab, more_prompts, chunk=8)
    vocabulary = temporary_bytes(more_vocab, prompts, chunk=8)
    batch = temporary_bytes(vocab, more_prompts, chunk=8)
    neither = temporary_bytes(vocab, prompts, chunk=8)
    added = (more_prompts - prompts) * GROUP * TIME * (more_vocab - vocab)
    assert abs(both - vocabulary - batch + neither) < 0.02 * 4 * added
    # The trap, logits of all positions at once, would be seen.
    at_once = temporary_bytes(more_vocab, more_prompts, chunk=10**6)
    assert at_once - both > 4 * added
