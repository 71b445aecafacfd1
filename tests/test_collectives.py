"""The collectives of a compiled step, and how often each runs.

The numbers are those of a program compiled for eight CPU devices. Where they grow, each
token or each layer of a real model has become slower.
"""

import collections
import dataclasses
import functools as ft

import equinox as eqx
import jax
import jax.random as jr
import optax
import pytest

import grpojax
from benchmarks import hlo
from grpojax import sharding
from grpojax.models import Block, Experts, Transformer, TransformerConfig

from .helpers import count_env, mostly_slow


MESHES = {"1x8x1": dict(fsdp=8), "1x4x2": dict(fsdp=4, tensor=2)}
REPLICAS = {"8x1x1": dict(data=8)}
CONFIG = TransformerConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=9,  # More than are unrolled for decoding.
    num_heads=8,
    num_kv_heads=4,
    head_dim=4,
    qkv_bias=True,
)
MATRICES = 7  # Of a layer.

pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 8,
    reason="needs eight devices: XLA_FLAGS=--xla_force_host_platform_device_count=8",
)


@ft.cache
def collectives(mesh: str, chunk: int | None = None) -> list[hlo.Collective]:
    """Those of the entire train step, with logits of `chunk` positions at a time."""
    env = count_env(vocab_size=64, target=7)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    placed = sharding.make_mesh(**{**MESHES, **REPLICAS}[mesh])
    policy = Transformer(CONFIG, key=jr.key(0))
    state = grpojax.init(policy, optimizer=optimizer, key=jr.key(1))
    state = sharding.place(state, placed)
    arrays, static = eqx.partition(state, eqx.is_array)

    def step(arrays):
        state, metrics = grpojax.train_step(
            eqx.combine(arrays, static),
            env,
            optimizer,
            rollout=grpojax.RolloutConfig(prompts=8, group=4),
            update=grpojax.UpdateConfig(chunk=chunk),
        )
        return eqx.filter(state, eqx.is_array), metrics

    with jax.set_mesh(placed):
        return hlo.collectives(jax.jit(step).lower(arrays).compile().as_text())


def inside(mesh: str, phase: str, *trips: int | None) -> collections.Counter:
    """How many of each kind are in loops with these trip counts."""
    return collections.Counter(
        x.kind
        for x in collectives(mesh)
        if phase in x.scope.split("/")
        and tuple(loop.trips for loop in x.loops) == trips
    )


@pytest.mark.slow
def test_replicated_layers_decode_without_collectives():
    """Without tensor parallelism a shard decodes as long as it needs, by itself."""
    assert not [x for x in collectives("1x8x1") if x.loops and "rollout" in x.scope]


def test_tensor_parallel_decoding_all_reduces_twice_a_layer():
    assert inside("1x4x2", "rollout", None, CONFIG.num_layers) == {"all-reduce": 2}
    # The embedding's lookup, the logits resharded by rows, and the drawn tokens with
    # their log-probabilities.
    once = {"all-reduce": 1, "all-to-all": 1, "all-gather": 2}
    assert inside("1x4x2", "rollout", None) == once


def test_no_weight_moves_while_tokens_are_decoded():
    decoding = [
        x
        for x in collectives("1x4x2")
        if "rollout" in x.scope.split("/") and x.loops and x.loops[0].trips is None
    ]
    assert decoding
    smallest = 4 * CONFIG.hidden_size * CONFIG.num_kv_heads * CONFIG.head_dim // 2
    for x in decoding:
        assert x.kind != "all-gather" or x.bytes < smallest // 8, x
        assert x.devices == (0, 1), f"only devices along `tensor` communicate: {x}"


@pytest.mark.parametrize("mesh", mostly_slow(MESHES, ["1x4x2"]))
def test_weights_are_gathered_once_for_decoding(mesh):
    gathered = inside(mesh, "rollout")["all-gather"]
    assert gathered == MATRICES + 2  # The embedding and the head, too.


@pytest.mark.parametrize("mesh", mostly_slow(MESHES, ["1x4x2"]))
def test_an_update_gathers_each_weight_for_each_pass(mesh):
    """Forward and backward, for the prompts and for each microbatch."""
    layers = CONFIG.num_layers
    for trips in ((layers,), (None, layers)):
        found = inside(mesh, "update", *trips)
        assert found["all-gather"] == 2 * MATRICES
        assert set(found) <= {"all-gather", "all-reduce", "reduce-scatter"}
    # Activations of tensor-parallel layers, and the gradients of all matrices.
    reduced = {"1x8x1": 1, "1x4x2": 5}
    assert inside(mesh, "update", None, layers)["all-reduce"] == reduced[mesh]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_blocks_of_logits_move_no_weight(mesh):
    """A microbatch gathers the head once, and reduces its gradient once."""
    found = [x for x in collectives(mesh, 3) if "update" in x.scope.split("/")]
    trips = [tuple(loop.trips for loop in x.loops) for x in found]
    blocks = [
        x
        for x, loops in zip(found, trips, strict=True)
        if len(loops) == 2 and loops[1] not in (None, CONFIG.num_layers)
    ]
    # Partial sums of logits over `tensor`; without it nothing at all.
    assert bool(blocks) == (mesh == "1x4x2")
    for x in blocks:
        assert x.kind == "all-reduce" and x.devices == (0, 1), x
    once = [x for x, loops in zip(found, trips, strict=True) if loops == (None,)]
    # The embedding and the head; a CPU's compiler may gather them before the loop.
    assert [x.kind for x in once].count("all-gather") <= 2
    head = 4 * CONFIG.vocab_size * CONFIG.hidden_size
    assert sum(x.bytes for x in once if x.kind != "all-gather") <= 3 * head


@pytest.mark.slow
def test_replicas_reduce_one_gradient():
    """Each accumulates its own microbatches: no collective in a loop, few beside it."""
    found = collectives("8x1x1")
    assert not [x for x in found if x.loops], (
        "a microbatch, a layer or a token communicates"
    )
    policy = Transformer(CONFIG, key=jr.key(0))
    gradient = sum(x.nbytes for x in jax.tree.leaves(eqx.filter(policy, eqx.is_array)))
    # All gradients in one, and the numbers of rewards and metrics.
    assert gradient <= sum(x.bytes for x in found) < 1.01 * gradient


def test_no_expert_is_gathered_while_tokens_are_decoded():
    """Each device multiplies by the experts that it has, and one sum follows."""
    experts = Experts(count=8, chosen=2, size=16)
    config = dataclasses.replace(CONFIG, block=Block(experts=experts))
    placed = sharding.make_mesh(fsdp=2, expert=4)
    env = count_env(vocab_size=64, target=7)
    policy = sharding.place(Transformer(config, key=jr.key(0)), placed)
    arrays, static = eqx.partition(policy, eqx.is_array)

    def sample(arrays, key):
        policy = eqx.combine(arrays, static)
        sizes = grpojax.RolloutConfig(prompts=8, group=4)
        return grpojax.rollout.generate(policy, env, sizes, key=key)

    with jax.set_mesh(placed):
        program = jax.jit(sample).lower(arrays, jr.key(0)).compile()
    found = hlo.collectives(program.as_text())
    decoding = [x for x in found if x.loops and x.loops[0].trips is None]
    layers = [x for x in decoding if x.loops[-1].trips == config.num_layers]
    # Of attention, and of the experts, over the devices that share them.
    assert [x.kind for x in layers] == ["all-reduce"] * 2
    smallest = 4 * config.hidden_size * experts.size
    for x in decoding:
        assert x.kind != "all-gather" or x.bytes < smallest, x
        assert len(x.devices) == 4, f"only devices along `expert` communicate: {x}"
    # Once in front of the loop, all of a device's experts.
    gathered = [x for x in found if x.kind == "all-gather" and not x.loops]
    held = smallest * config.num_layers * experts.count // 4
    assert max(x.bytes for x in gathered) == held
