"""Packing changes the layout of tokens and the work, and no result."""

import functools as ft

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
from grpojax.types import Prompt
from grpojax.update.packed import pack_rows
from grpojax.update.packed._chunks import split_source
from grpojax.update.packed._packing import balance_tokens, pack, pack_prompts, to_rows

from ..helpers import count_env, distance, mostly_slow, transformer


TIME, GROUP, PROMPTS = 12, 6, 2
ROWS = PROMPTS * GROUP
lengths = st.lists(st.integers(0, TIME), min_size=ROWS, max_size=ROWS).map(np.array)
# Rows are split in microbatches of less than their horizon.
sizes = st.sampled_from([1, 5, 6, 12, 20, 200])
law = settings(max_examples=60, deadline=None)


@ft.partial(jax.jit, static_argnums=1)
def packed(lengths, size):
    return pack(lengths, size, TIME)


def chunks_of(packing, size: int):
    """Every chunk that is computed, as indices of tokens."""
    for microbatch in range(int(packing.used)):
        row = int(packing.split_row[microbatch])
        for number in range(int(packing.before[row]) // size if row >= 0 else 0):
            yield microbatch, split_source(packing, microbatch, number, TIME)
        yield microbatch, packing.source[microbatch]


@law
@given(lengths, sizes)
def test_every_token_is_packed_once_in_the_order_of_its_row(lengths, size):
    packing = packed(lengths, size)
    wanted = [row * TIME + t for row in range(ROWS) for t in range(lengths[row])]
    found = [np.asarray(source) for _, source in chunks_of(packing, size)]
    tokens = np.concatenate(found)
    assert sorted(tokens[tokens >= 0]) == wanted
    assert not (np.asarray(packing.source)[int(packing.used) :] >= 0).any()
    splits = np.asarray(packing.split_row) >= 0
    assert splits[: splits.sum()].all(), "not in front of the others"
    for source in found:
        # Rows are side by side in their order, but for a split one in front.
        row = source[source >= 0] // TIME
        assert len(np.flatnonzero(np.diff(row))) == len(np.unique(row)) - 1 or not len(
            row
        )
        same = np.diff(row) == 0
        assert (np.diff(source[source >= 0])[same] == 1).all()
    for row in np.flatnonzero(lengths):
        before, start = int(packing.before[row]), int(packing.start[row])
        last = np.asarray(packing.source)[int(packing.microbatch[row])]
        here = last[start : start + lengths[row] - before]
        np.testing.assert_array_equal(
            here, row * TIME + np.arange(before, lengths[row])
        )


@law
@given(lengths, sizes)
def test_few_microbatches_are_used(lengths, size):
    packing = packed(lengths, size)
    assert int(packing.used) == max(sequential_first_fit(lengths, size), 1)


def sequential_first_fit(lengths, size: int) -> int:
    """The same rule as a Python loop over a list that grows."""
    free = []
    for length in filter(None, sorted(lengths, reverse=True)):
        rest = (length - 1) % size + 1
        for microbatch, room in enumerate(free):
            if length <= size and room >= rest:
                free[microbatch] -= rest
                break
        else:
            free.append(size - rest)
    return len(free)


@law
@given(lengths, sizes, st.integers(0, 99))
def test_packing_and_unpacking_are_inverse(lengths, size, seed):
    packing = packed(lengths, size)
    rows = np.random.default_rng(seed).normal(size=(ROWS, TIME)).astype(np.float32)
    inside = np.arange(TIME) < lengths[:, None]
    seen = np.zeros(ROWS, bool)
    earlier = np.zeros((-(-TIME // size) - 1) * size, np.float32)
    position = 0
    for microbatch, source in chunks_of(packing, size):
        columns = np.where(source >= 0, rows.reshape(-1)[source], np.nan)
        if source is not packing.source[microbatch] and not np.array_equal(
            source, packing.source[microbatch]
        ):
            earlier[position : position + size] = columns
            position += size
            continue
        shape = PROMPTS, GROUP, TIME
        number = jnp.asarray(microbatch)
        back, included = to_rows(
            jnp.asarray(columns), jnp.asarray(earlier), packing, number, shape
        )
        included = np.asarray(included).reshape(-1)
        keep = inside & included[:, None]
        found = np.asarray(back).reshape(ROWS, TIME)
        np.testing.assert_array_equal(np.where(keep, found, 0), np.where(keep, rows, 0))
        assert not (seen & included).any()
        seen |= included
        position = 0
    assert seen.all()


@law
@given(
    lengths=st.lists(st.integers(1, 9), min_size=4, max_size=4).map(np.array),
    size=st.sampled_from([1, 5, 8, 100]),
)
def test_prompts_are_packed_without_their_last_tokens(lengths, size):
    prompt = Prompt(jnp.zeros((4, 9), jnp.int32), jnp.asarray(lengths))
    found = pack_prompts(prompt, size)
    owner, position = (np.ravel(x) for x in (found.owner, found.position))
    count = lengths.sum() - 4
    wanted = [(p, t) for p in range(4) for t in range(lengths[p] - 1)]
    assert list(zip(owner[:count], position[:count], strict=True)) == wanted
    assert (owner[count:] == -1).all()
    assert int(found.used) == -(-count // found.owner.shape[1])


ENV = count_env()
OPTIMIZER = optax.sgd(1.0)


@pytest.fixture(scope="module")
def rolled_out():
    policy = transformer()
    generate = eqx.filter_jit(rollout.generate)
    limits = jnp.array([[1, 3, 12, 2], [5, 4, 2, 9], [12, 12, 1, 12]])
    config = rollout.RolloutConfig(prompts=3, group=4, limits=limits)
    return policy, generate(policy, ENV, config, key=jr.key(0))


@pytest.mark.parametrize("size", [12, 30])
def test_microbatches_follow_the_tokens(rolled_out, size):
    """Twelve rows may need twelve microbatches; short ones share them."""
    _, trajectory = rolled_out
    prompt, tokens, sampled = trajectory.prompt, trajectory.tokens, trajectory.sampled
    rows = pack_rows(prompt, tokens, sampled, size)
    used = sequential_first_fit(np.ravel(trajectory.lengths), size)
    assert int(rows.microbatches) == used < 12
    empty = pack_rows(prompt, tokens, jnp.zeros_like(sampled), size)
    assert int(empty.microbatches) == 1


def test_a_longer_horizon_and_wider_prompts_cost_nothing(rolled_out):
    """As many microbatches for the same tokens; half a chunk more for the prompts."""
    _, trajectory = rolled_out
    prompt, tokens, sampled = trajectory.prompt, trajectory.tokens, trajectory.sampled
    more = lambda x, count: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, count)])

    def packed(count: int):
        wide = Prompt(more(prompt.tokens, count), prompt.length)
        return pack_rows(wide, more(tokens, count), more(sampled, count), 20)

    def columns(rows) -> int:
        return int(jnp.max(rows.prompts.used)) * rows.prompts.owner.shape[-1]

    plain, wide, wider = packed(0), packed(1000), packed(4000)
    for rows in (wide, wider):
        assert int(rows.microbatches) == int(plain.microbatches)
    assert columns(wider) == columns(wide) < columns(plain) + 20 // 2


@pytest.mark.laws
@pytest.mark.parametrize(
    "size",
    mostly_slow(
        [
            dict(),
            dict(microbatches=1),
            dict(microbatches=5),
            dict(tokens=7),
            dict(tokens=1),
        ],
        fast=[dict(tokens=7)],
    ),
)
def test_the_update_equals_that_of_unpacked_rows(rolled_out, size):
    """Rows of 12 tokens and prompts of 6 do not fit into a microbatch of 7, or of 1."""
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
        config=update.UpdateConfig(**size),
    )
    assert distance(wanted, policy) > 1e-2
    chex.assert_trees_all_close(got, wanted, rtol=0, atol=1e-5)
    assert float(metrics["sampling/sampling_logp_difference/max"]) <= 1e-5


SHARDS, ROOM = 4, 3
counts = st.lists(
    st.integers(0, GROUP * TIME),
    min_size=SHARDS * ROOM,
    max_size=SHARDS * ROOM,
).map(np.array)


@ft.cache
def permutation():
    """Indices of prompts as `balance_tokens` permutes them, and restored."""

    def balance(tokens):
        mask = jnp.arange(GROUP * TIME) < tokens[:, None]
        mask = mask.reshape(-1, GROUP, TIME)
        permuted, restore = balance_tokens(mask, jnp.arange(len(tokens)))
        return permuted, restore(permuted)

    return jax.jit(balance)


@pytest.mark.skipif(
    len(jax.devices()) < 8,
    reason="needs eight devices: XLA_FLAGS=--xla_force_host_platform_device_count=8",
)
@law
@given(counts)
def test_all_shards_have_about_as_many_tokens(tokens):
    with jax.set_mesh(sharding.make_mesh(data=2, fsdp=2, tensor=2)):
        permuted, restored = permutation()(tokens)
    indices = np.arange(len(tokens))
    np.testing.assert_array_equal(restored, indices)
    np.testing.assert_array_equal(np.sort(permuted), indices)
    shards = np.split(np.asarray(permuted), SHARDS)
    held = [tokens[shard].sum() for shard in shards]
    assert max(held) - min(held) <= tokens.max()
