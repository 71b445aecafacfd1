"""The load-balance loss: `transformers`' formula, whatever a microbatch holds."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from grpojax import models, update
from grpojax.policy import Past, prefill
from grpojax.runs.recipe import schema
from grpojax.runs.recipe.parts.algorithm import build_algorithm, check_algorithm
from grpojax.types import Prompt

from ..helpers import transformer
from .doubles import bigram, random_trajectory


EXPERTS = models.Experts(count=4, chosen=2, size=5, dense=(0,))


def policy():
    config = models.TransformerConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=6,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        block=models.Block(experts=EXPERTS),
    )
    return models.Transformer(config, key=jr.key(0))


def directly(policy, trajectory):
    """The loss, and the load of the most loaded expert over the mean: row by row."""
    prompt, total, chosen = trajectory.prompt, 0.0, 0.0
    for number, tokens in enumerate(trajectory.tokens):
        own = Prompt(prompt.tokens[number], prompt.length[number])
        in_prompt = jnp.arange(own.tokens.shape[0]) < own.length - 1
        past = Past(prefill(policy, own), in_prompt[None])
        last = own.tokens[own.length - 1]
        positions = own.length - 1 + jnp.arange(tokens.shape[-1])
        for row, sampled in zip(tokens, trajectory.sampled[number], strict=True):
            inputs = jnp.concatenate([last[None], row[:-1]])
            use = policy.extend_routed(inputs, positions, past)[2]
            total += jnp.sum(jnp.where(sampled[:, None], use.probability, 0), axis=0)
            chosen += jnp.sum(jnp.where(sampled[:, None], use.chosen, 0), axis=0)
    count = jnp.sum(trajectory.sampled, dtype=jnp.float32)
    shares = jax.lax.stop_gradient(chosen / count)
    loss = EXPERTS.count * jnp.sum(shares * total / count)
    return loss, jnp.max(shares) / jnp.mean(shares)


def test_the_loss_and_its_gradient_are_those_of_all_tokens():
    model = policy()
    trajectory = random_trajectory(bigram(vocab=11), prompts=2, group=2, time=7)
    run = eqx.filter_value_and_grad(directly, has_aux=True)
    (expected, most), gradient = eqx.filter_jit(run)(model, trajectory)
    expected, most = float(expected), float(most)
    # It is 2, the number of experts of a token, where all experts have as many.
    assert 2 < expected < 4 and most > 1.01
    objective = update.Objective(penalties=(update.LoadBalance(0.5),))
    optimizer = optax.sgd(1.0)
    state = optimizer.init(eqx.filter(model, model.trainable()))

    for tokens in (3, 100):  # Rows that are split, and all rows at once.
        improved, _, metrics = eqx.filter_jit(update.improve)(
            model,
            state,
            trajectory,
            jnp.zeros((2, 2)),
            objective=objective,
            optimizer=optimizer,
            config=update.UpdateConfig(tokens=tokens),
        )
        assert metrics["router/balance_loss"] == pytest.approx(expected, rel=1e-5)
        assert metrics["router/max_load"] == pytest.approx(most, rel=1e-5)
        assert metrics["loss"] == pytest.approx(0.5 * expected, rel=1e-5)
        for new, old, slope in zip(
            *map(jax.tree.leaves, (improved, model, gradient)), strict=True
        ):
            np.testing.assert_allclose(old - new, 0.5 * slope, atol=1e-6)


def test_a_policy_without_experts_is_refused():
    model = transformer("llama")
    with pytest.raises(ValueError, match="leave out the penalty `LoadBalance`"):
        model.extend_routed(jnp.zeros(3, jnp.int32), jnp.arange(3))
    trajectory = random_trajectory(bigram(vocab=11), prompts=2, group=2)
    optimizer = optax.sgd(1.0)
    state = optimizer.init(eqx.filter(model, model.trainable()))
    with pytest.raises(ValueError, match="chooses among experts. Received a policy"):
        eqx.filter_eval_shape(
            update.improve,
            model,
            state,
            trajectory,
            jnp.zeros((2, 2)),
            objective=update.Objective(penalties=(update.LoadBalance(),)),
            optimizer=optimizer,
        )


def test_a_recipe_names_it():
    penalties = ({"name": "LoadBalance", "coefficient": 0.01}, {"name": "KL"})
    settings = dataclasses.replace(schema.Algorithm(), penalties=penalties)
    recipe = dataclasses.replace(schema.Recipe(), algorithm=settings)
    check_algorithm(recipe)
    objective = build_algorithm(recipe).objective
    assert objective.penalties == (update.LoadBalance(0.01), update.KL())
    assert objective.balances and objective.compares
    assert not update.Objective(penalties=(update.LoadBalance(),)).compares


def test_its_coefficient_is_not_negative():
    with pytest.raises(ValueError, match="LoadBalance.*at least 0"):
        update.LoadBalance(-1)
