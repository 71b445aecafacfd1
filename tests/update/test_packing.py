"""Packing changes the layout of tokens and the work, and no result."""

import functools as ft
import math

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

from grpojax import rollout, sharding, update
from grpojax.algorithms import grpo
from grpojax.update._microbatches import pack_rows
from grpojax.update._packing import balance_tokens, pack, to_rows, to_streams

from ..helpers import count_env, distance, transformer


TIME, GROUP, PROMPTS = 12, 6, 2
ROWS = PROMPTS * GROUP
lengths = st.lists(st.integers(0, TIME), min_size=ROWS, max_size=ROWS).map(
    lambda values: np.array(values).reshape(PROMPTS, GROUP)
)
law = settings(max_examples=60, deadline=None)


@jax.jit
def packed(lengths):
    return pack(lengths, TIME)


@law
@given(lengths)
def test_every_token_is_packed_once_in_the_order_of_its_row(lengths):
    packing = packed(lengths)
    flat = lengths.reshape(-1)
    wanted = [row * TIME + t for row in range(ROWS) for t in range(flat[row])]
    source = np.asarray(packing.source)
    assert sorted(source[source >= 0]) == wanted
    stream, start = (np.ravel(x) for x in (packing.stream, packing.start))
    for row in np.flatnonzero(flat):
        here = source[stream[row], start[row] : start[row] + flat[row]]
        np.testing.assert_array_equal(here, row * TIME + np.arange(flat[row]))
        assert packing.owner[stream[row]] == row // GROUP
    position = np.where(source >= 0, source % TIME, 0)
    np.testing.assert_array_equal(packing.position, position)


@law
@given(lengths)
def test_few_streams_are_used_and_the_rest_is_empty(lengths):
    packing = packed(lengths)
    used = int(packing.used)
    assert not (np.asarray(packing.source)[used:] >= 0).any()
    assert used == sum(map(sequential_first_fit, lengths))


def sequential_first_fit(lengths) -> int:
    """The same rule as a Python loop over a list that grows."""
    free = []
    for length in filter(None, sorted(lengths, reverse=True)):
        for stream, room in enumerate(free):
            if room >= length:
                free[stream] -= length
                break
        else:
            free.append(TIME - length)
    return len(free)


@law
@given(lengths, st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(0, 99))
def test_packing_and_unpacking_are_inverse(lengths, streams, seed):
    packing = packed(lengths)
    rows = jr.normal(jr.key(seed), (PROMPTS, GROUP, TIME))
    inside = np.arange(TIME) < lengths[..., None]
    seen = np.zeros((PROMPTS, GROUP), bool)
    for first in range(0, int(packing.used), streams):
        source = packing.source[first : first + streams]
        back, included = to_rows(to_streams(rows, source), packing, jnp.asarray(first))
        keep = inside & np.asarray(included)[..., None]
        np.testing.assert_array_equal(np.where(keep, back, 0), np.where(keep, rows, 0))
        assert not (seen & included & (lengths > 0)).any()
        seen |= np.asarray(included)
    assert seen[lengths > 0].all()


ENV = count_env()
OPTIMIZER = optax.sgd(1.0)


@pytest.fixture(scope="module")
def rolled_out():
    policy = transformer()
    generate = eqx.filter_jit(rollout.generate)
    limits = jnp.array([[1, 3, 12, 2], [5, 4, 2, 9], [12, 12, 1, 12]])
    config = rollout.RolloutConfig(prompts=3, group=4, limits=limits)
    return policy, generate(policy, ENV, config, key=jr.key(0))


@pytest.mark.parametrize("streams", [1, 3])
def test_microbatches_follow_the_tokens(rolled_out, streams):
    """Twelve rows may need twelve streams; short ones share them."""
    _, trajectory = rolled_out
    prompt, tokens, sampled = trajectory.prompt, trajectory.tokens, trajectory.sampled
    rows = pack_rows(prompt, tokens, sampled, streams)
    used = sum(map(sequential_first_fit, np.asarray(trajectory.lengths)))
    assert int(rows.microbatches) == math.ceil(used / streams)
    assert used < 12
    empty = pack_rows(prompt, tokens, jnp.zeros_like(sampled), streams)
    assert int(empty.microbatches) == 1


@pytest.mark.laws
@pytest.mark.parametrize("microbatches", [None, 1, 2, 4, 12])
def test_the_update_equals_that_of_unpacked_rows(rolled_out, microbatches):
    policy, trajectory = rolled_out
    advantages = jr.normal(jr.key(1), (3, 4))
    objective = grpo().objective

    @eqx.filter_grad
    def plain(policy):
        batch = update.Batch(
            advantage=advantages[:, :, None],
            mask=trajectory.sampled,
            old=trajectory.log_prob,
        )
        found = update.log_probs(policy, trajectory.prompt, trajectory.tokens)
        weights = objective.loss_weights(batch)
        return objective(update.LossInputs(*found, batch, weights))[0]

    gradient = eqx.filter_jit(plain)(policy)
    wanted = eqx.apply_updates(policy, jax.tree.map(lambda g: -g, gradient))
    improve = eqx.filter_jit(update.improve)
    params = eqx.filter(policy, eqx.is_inexact_array)
    got, _, metrics = improve(
        policy,
        OPTIMIZER.init(params),
        trajectory,
        advantages,
        objective=objective,
        optimizer=OPTIMIZER,
        config=update.UpdateConfig(microbatches=microbatches),
    )
    assert distance(wanted, policy) > 1e-2
    chex.assert_trees_all_close(got, wanted, rtol=0, atol=1e-5)
    assert float(metrics["sampling/sampling_logp_difference/max"]) <= 1e-5


SHARDS, CHUNKS, ROOM = 4, 2, 3
counts = st.lists(
    st.integers(0, GROUP * TIME),
    min_size=SHARDS * CHUNKS * ROOM,
    max_size=SHARDS * CHUNKS * ROOM,
).map(np.array)


@ft.cache
def permutation():
    """Indices of prompts as `balance_tokens` permutes them, and restored."""

    def balance(tokens):
        mask = jnp.arange(GROUP * TIME) < tokens[:, None]
        mask = mask.reshape(-1, GROUP, TIME)
        permuted, restore = balance_tokens(mask, CHUNKS, jnp.arange(len(tokens)))
        return permuted, restore(permuted)

    return jax.jit(balance)


@pytest.mark.skipif(
    len(jax.devices()) < 8,
    reason="needs eight devices: XLA_FLAGS=--xla_force_host_platform_device_count=8",
)
@law
@given(counts)
def test_chunks_of_all_shards_have_about_as_many_tokens(tokens):
    with jax.set_mesh(sharding.make_mesh(data=2, fsdp=2, tensor=2)):
        permuted, restored = permutation()(tokens)
    indices = np.arange(len(tokens))
    np.testing.assert_array_equal(restored, indices)
    np.testing.assert_array_equal(np.sort(permuted), indices)
    shards = np.split(np.asarray(permuted), SHARDS)
    chunks = [tokens[shard[chunk::CHUNKS]] for shard in shards for chunk in (0, 1)]
    held = [chunk.sum() for chunk in chunks]
    assert max(held) - min(held) <= tokens.max()
