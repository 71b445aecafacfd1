"""One step on many devices is the step on one."""

import dataclasses
import functools as ft
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import grpojax
from grpojax import models, reward, rollout, sharding, update
from grpojax.models import Transformer, TransformerConfig
from grpojax.types import Axes, Rewards

from .helpers import count_env, distance, leaves, mostly_slow, UniformPolicy
from .test_algorithms import ALGORITHMS


MESHES = {
    "8x1x1": dict(data=8),
    "1x8x1": dict(fsdp=8),
    "2x2x2": dict(data=2, fsdp=2, tensor=2),
    "1x2x4": dict(fsdp=2, tensor=4),
}
# One that shards every axis, in every run of the tests; the others take minutes.
one_mesh_or_all = pytest.mark.parametrize("mesh", mostly_slow(MESHES, ["2x2x2"]))
CONFIG = TransformerConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=8,
    num_kv_heads=4,
    head_dim=4,
    qkv_bias=True,
)
ENV = count_env(vocab_size=64, target=7)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
ROLLOUT = rollout.RolloutConfig(prompts=8, group=4)
STEP = grpojax.TrainStep(ENV, OPTIMIZER, rollout=ROLLOUT)
change = dataclasses.replace

pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 8,
    reason="needs eight devices: XLA_FLAGS=--xla_force_host_platform_device_count=8",
)


def transformer() -> Transformer:
    policy = Transformer(CONFIG, key=jr.key(0))
    return eqx.tree_at(lambda p: p.head, policy, policy.head * 3)


def begin(policy=None) -> grpojax.TrainState:
    policy = transformer() if policy is None else policy
    return grpojax.init(policy, optimizer=OPTIMIZER, key=jr.key(1))


def steps(state, count: int, step: grpojax.TrainStep):
    """State and metrics after so many steps, and the completions of each."""

    @eqx.filter_jit
    def call(state):
        experience = step.collect(state)
        state, metrics = step.learn(state, experience)
        return state, metrics, experience.trajectory.tokens

    tokens = []
    for _ in range(count):
        state, metrics, completions = call(state)
        tokens.append(np.asarray(completions))
    return state, {k: float(v) for k, v in metrics.items()}, tokens


@ft.cache
def on_one_device(**changes):
    return steps(begin(), 3, change(STEP, **changes))


def on(mesh_sizes, state, count: int, step=STEP):
    devices = jax.devices()[: math.prod(mesh_sizes.values())]
    mesh = sharding.make_mesh(**mesh_sizes, devices=devices)
    with jax.set_mesh(mesh):
        return steps(sharding.place(state, mesh), count, step)


@one_mesh_or_all
def test_three_steps_are_those_of_one_device(mesh):
    slots = 8 if mesh == "2x2x2" else None
    changes = dict(rollout=change(ROLLOUT, slots=slots))
    state, metrics, tokens = on_one_device(**changes)
    placed, found, said = on(MESHES[mesh], begin(), 3, change(STEP, **changes))
    np.testing.assert_array_equal(said, tokens)
    # Adam divides small gradients by their own size, and so amplifies their rounding:
    # 1.2e-5 was measured after steps of up to 3e-3 in all.
    assert distance(placed.policy, state.policy) < 2e-5
    assert distance(placed.opt_state, state.opt_state) < 1e-5
    assert found == pytest.approx(metrics, rel=1e-4, abs=1e-5)
    # The next step takes what this one returned, where it is placed.
    wanted = sharding.shardings(placed, sharding.make_mesh(**MESHES[mesh]))
    for leaf, place in zip(leaves(placed), jax.tree.leaves(wanted), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_adapters_over_eight_bits_are_those_of_one_device(mesh):
    def adapted():
        base = models.quantize(transformer())
        return models.lora(base, rank=2, alpha=4.0, key=jr.key(3))

    state, metrics, tokens = steps(begin(adapted()), 3, STEP)
    placed, found, said = on(MESHES[mesh], begin(adapted()), 3)
    np.testing.assert_array_equal(said, tokens)
    assert distance(placed.policy, state.policy) < 1e-5
    assert found == pytest.approx(metrics, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [dict(data=2), dict(fsdp=2), dict(tensor=2), *MESHES.values()],
    ids=str,
)
def test_a_quantized_sampler_is_that_of_one_device(sizes):
    changes = dict(rollout=change(ROLLOUT, slots=8, behavior=models.quantize))
    state, metrics, tokens = on_one_device(**changes)
    placed, found, said = on(sizes, begin(), 3, change(STEP, **changes))
    np.testing.assert_array_equal(said, tokens)
    assert distance(placed.policy, state.policy) < 1e-5
    assert found == pytest.approx(metrics, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_parts_of_a_batch_on_a_mesh():
    """Minibatches, microbatches and old log-probabilities anew, dealt out to shards."""
    config = update.UpdateConfig(
        minibatches=2, microbatches=4, epochs=2, recompute=True
    )
    state, metrics, tokens = on_one_device(update=config)
    mesh, step = dict(data=2, tensor=4), change(STEP, update=config)
    placed, found, said = on(mesh, begin(), 3, step)
    np.testing.assert_array_equal(said, tokens)
    assert distance(placed.policy, state.policy) < 1e-5
    assert found == pytest.approx(metrics, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("index", range(len(ALGORITHMS)))
def test_every_algorithm_is_that_of_one_device(mesh, index):
    step = change(STEP, algorithm=ALGORITHMS[index]())
    state, metrics, tokens = steps(begin(), 3, step)
    placed, found, said = on(MESHES[mesh], begin(), 3, step)
    np.testing.assert_array_equal(said, tokens)
    assert distance(placed.policy, state.policy) < 1e-5
    assert found == pytest.approx(metrics, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("index", range(len(ALGORITHMS)))
def test_statistics_are_over_the_full_batch(index):
    """One shard's mean would differ: each has one prompt, with its own rewards."""
    algorithm = ALGORITHMS[index]()
    rewards = Rewards.of(
        jr.normal(jr.key(0), (8, 4)) + jnp.arange(8.0)[:, None],
        lengths=jr.randint(jr.key(1), (8, 4), 1, 9),
    )
    compare = lambda rewards: (algorithm.advantage(rewards), algorithm.select(rewards))
    mesh = sharding.make_mesh(data=4, fsdp=2)
    split = NamedSharding(mesh, PartitionSpec(sharding.BATCH))
    placed = jax.tree.map(lambda x: jax.device_put(x, split) if x.ndim else x, rewards)
    with jax.set_mesh(mesh):
        found = jax.jit(compare)(placed)
    for a, b in zip(found, compare(rewards), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_a_host_reward_is_called_once_for_each_shard():
    asked = []

    def judge(completions, **_):
        asked.append(len(completions))
        return [float(len(text)) for text in completions]

    decode = lambda tokens: " ".join(map(str, tokens))
    judged = reward.HostReward(judge, decode, name="length")

    @eqx.filter_jit
    def total(policy):
        trajectory = rollout.generate(policy, ENV, ROLLOUT, key=jr.key(2))
        return judged(trajectory).total

    mesh = sharding.make_mesh(**MESHES["2x2x2"])
    wanted = total(transformer())
    assert asked == [32]
    asked.clear()
    with jax.set_mesh(mesh):
        found = total(sharding.place(transformer(), mesh))
    # Four shards of the batch, each called once and not once for each device.
    np.testing.assert_array_equal(found, wanted)
    assert asked == [8] * 4


def test_weights_and_moments_are_sharded_and_not_replicated():
    mesh = sharding.make_mesh(**MESHES["2x2x2"])
    state = sharding.place(begin(), mesh)
    spec = lambda leaf: leaf.sharding.spec
    for tree in (state.policy, optax.tree.get(state.opt_state, "mu")):
        assert spec(tree.layers.query) == PartitionSpec(None, ("fsdp",), ("tensor",))
        assert spec(tree.layers.down) == PartitionSpec(None, ("tensor",), ("fsdp",))
        assert spec(tree.embedding) == PartitionSpec(("tensor",), ("fsdp",))
        assert tree.layers.query.addressable_shards[0].data.size * 4 == (
            tree.layers.query.size
        )
    assert spec(state.key) == spec(state.version) == PartitionSpec()


def test_few_key_heads_are_replicated_and_query_heads_are_not():
    mesh = sharding.make_mesh(tensor=8)
    found = sharding.shardings(transformer(), mesh)
    assert found.layers.key.spec == PartitionSpec(None, None, None)
    assert found.layers.query.spec == PartitionSpec(None, None, ("tensor",))
    wide = sharding.make_mesh(tensor=3, devices=jax.devices()[:3])
    with pytest.raises(ValueError, match="`heads` of 8 for the 3 parts of .*tensor"):
        sharding.shardings(transformer(), wide)


def test_a_policy_without_axis_names_is_replicated():
    class Strange(UniformPolicy):
        table: jax.Array = eqx.field(default_factory=lambda: jnp.ones((8, 8)))

    mesh = sharding.make_mesh(fsdp=8)
    assert sharding.place(Strange(), mesh).table.sharding.is_fully_replicated


@pytest.mark.parametrize(
    "sizes, message",
    [
        (dict(data=3), "multiply to the number of devices.*data=3.*8 devices"),
        (dict(data=-1, tensor=-1), "one of them may be -1"),
        (dict(data=0), "positive"),
        (dict(data=-1, tensor=3), "multiply to the number of devices"),
    ],
)
def test_invalid_meshes_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(**sizes)


def test_an_axis_of_a_mesh_is_inferred():
    assert dict(sharding.make_mesh(fsdp=-1, tensor=2).shape) == {
        "data": 1,
        "fsdp": 4,
        "tensor": 2,
        "expert": 1,
    }


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(rollout=change(ROLLOUT, prompts=6)),
            "data x fsdp = 8. Received prompts=6",
        ),
        (dict(rollout=change(ROLLOUT, slots=4)), "data x fsdp = 8. Received slots=4"),
        (
            dict(update=update.UpdateConfig(minibatches=2)),
            "minibatches=4",
        ),
    ],
)
def test_batches_that_cannot_be_split(changes, message):
    with pytest.raises(ValueError, match=message):
        on(MESHES["8x1x1"], begin(), 1, change(STEP, **changes))


def test_a_mesh_with_other_axes_is_ignored():
    other = jax.make_mesh((8,), ("model",), (AxisType.Auto,))
    with jax.set_mesh(other):
        assert sharding.spmd.shards() == 1
        assert sharding.spmd.weight_sharding(Axes(("hidden",), (8,))) is None
