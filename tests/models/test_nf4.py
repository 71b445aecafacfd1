"""Weights in 4 bits: their codes, products, shards, and what is never stored."""

import dataclasses

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import ml_dtypes
import numpy as np
import optax
import pytest
import scipy.stats
from jax.extend.core import jaxprs_in_params

import grpojax
from grpojax import models, policy, rollout, sharding
from grpojax.models import PROJECTIONS
from grpojax.models.matrix import as_matrix, product, to_int8, to_nf4
from grpojax.models.matrix._nf4 import LEVELS
from grpojax.sharding import spmd
from grpojax.testing import check_policy
from grpojax.types import Axes
from tests.helpers import count_env, distance, learned, transformer


logits = eqx.filter_jit(policy.logits)
TOKENS = np.random.default_rng(0).integers(0, 50, 24)
DEEP = models.TransformerConfig(
    vocab_size=50,
    hidden_size=128,
    intermediate_size=192,
    num_layers=5,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    tied=True,
)


def by_numpy(weight):
    """Codes, absmax and the dequantized matrix, one block at a time."""
    weight = np.asarray(weight, np.float32)
    inputs, outputs = weight.shape
    levels = np.asarray(LEVELS, np.float32)
    codes = np.zeros(weight.shape, int)
    absmax = np.zeros((-(-inputs // 64), outputs), np.float32)
    for block in range(absmax.shape[0]):
        rows = slice(64 * block, min(64 * block + 64, inputs))
        absmax[block] = np.abs(weight[rows]).max(axis=0)
        share = weight[rows] / np.where(absmax[block] == 0, 1, absmax[block])
        gaps = np.abs(share[..., None].astype(np.float64) - levels)
        codes[rows] = gaps.argmin(axis=-1)  # The first of equal ones.
    scale = absmax.astype(ml_dtypes.bfloat16).astype(np.float32)
    return codes, scale, levels[codes] * np.repeat(scale, 64, axis=0)[:inputs]


def codes_of(matrix):
    packed = np.asarray(matrix.codes)
    each = np.concatenate([packed & 15, packed >> 4], axis=-2)
    *layer, blocks, _, outputs = each.shape
    return each.reshape(*layer, blocks * 64, outputs)[..., : matrix.shape[-2], :]


def test_levels_are_quantiles_of_a_normal_distribution():
    """Appendix E of arXiv:2305.14314: seven below zero, eight above, both ends one."""
    of = lambda count: scipy.stats.norm.ppf(np.linspace(0.9677083, 0.5, count)[:-1])
    found = np.sort(np.concatenate([of(9), [0], -of(8)]))
    np.testing.assert_allclose(LEVELS, found / found.max(), atol=1e-7)


@pytest.mark.parametrize(
    "shape", [(64, 5), (1, 1), (63, 2), (65, 3), (200, 7), (2, 3, 70, 4)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_codes_are_those_of_numpy(shape, dtype):
    draw = np.random.default_rng(len(shape))
    weight = draw.normal(size=shape) * draw.lognormal(size=shape)
    weight[..., : shape[-2] // 2, 0] = 0
    weight = jnp.asarray(weight, dtype)
    matrix = to_nf4(weight)
    assert matrix.shape == weight.shape and matrix.bits == 4
    found = matrix.dense("float32")
    for at in np.ndindex(*shape[:-2]):
        codes, absmax, dense = by_numpy(weight[at])
        np.testing.assert_array_equal(codes_of(matrix)[at], codes)
        np.testing.assert_array_equal(np.asarray(matrix.absmax[at], np.float32), absmax)
        np.testing.assert_array_equal(found[at], dense)
    # Values that have 4 bits keep them.
    chex.assert_trees_all_equal(to_nf4(found), matrix)


def test_a_tie_is_the_lower_level_and_a_block_of_zeros_stays_zero():
    middles = np.float32([LEVELS[6] / 2, LEVELS[8] / 2])
    above = np.nextafter(middles, np.float32(1))
    weight = np.zeros((128, 2), np.float32)
    weight[:5, 0] = [1, *middles, *above]
    weight[:5, 1] = [-4, *(4 * middles), *(4 * above)]
    matrix = to_nf4(weight)
    np.testing.assert_array_equal(codes_of(matrix)[:6, 0], [15, 6, 7, 7, 8, 7])
    np.testing.assert_array_equal(codes_of(matrix)[:6, 1], [0, 6, 7, 7, 8, 7])
    dense = matrix.dense("float32")
    assert not dense[5:].any() and dense[0].tolist() == [1, -4]


def test_a_weight_takes_four_and_a_quarter_bits():
    matrix = to_nf4(jr.normal(jr.key(0), (3, 128, 48)))
    assert sum(x.nbytes for x in jax.tree.leaves(matrix)) == 3 * 128 * 48 * 4.25 / 8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [(), (3, 2)])
def test_a_product_is_that_with_the_dense_array(batch, dtype):
    """Forward and backward, in either order with `vmap`."""
    matrix = to_nf4(jr.normal(jr.key(0), (70, 24)))
    dense = matrix.dense(dtype)
    x, pull = jr.normal(jr.key(1), (*batch, 5, 70)), jr.normal(jr.key(2), (5, 24))

    def both(multiply):
        mapped = multiply
        total = lambda x: jnp.sum(pull * multiply(x))
        gradient = jax.grad(total)
        for _ in batch:
            mapped, gradient = jax.vmap(mapped), jax.vmap(gradient)
        summed = jax.grad(lambda x: jnp.sum(pull * mapped(x)))
        return jax.jit(lambda x: (mapped(x), gradient(x), summed(x)))(x)

    found = both(lambda x: matrix.multiply(x, dtype))
    wanted = both(lambda x: product(x, dense, dtype))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_logits_are_those_of_numpy_s_weights():
    model = models.Transformer(DEEP, key=jr.key(0))
    coarse = models.quantize(model, bits=4)
    dense = {
        name: jnp.stack([jnp.asarray(by_numpy(layer)[2]) for layer in matrix])
        for name, matrix in model.layers.projections.items()
    }
    layers = dataclasses.replace(model.layers, **dense)
    expected = eqx.tree_at(lambda p: p.layers, model, layers)
    chex.assert_trees_all_equal(models.merge(coarse), expected)
    found, exact = logits(coarse, TOKENS), logits(model, TOKENS)
    np.testing.assert_allclose(found, logits(expected, TOKENS), rtol=0, atol=1e-5)
    assert 0 < jnp.abs(found - exact).mean() < 0.5 * jnp.abs(exact).mean()


@pytest.mark.slow
def test_an_adapted_policy_in_four_bits_keeps_the_laws():
    base = models.quantize(transformer("qwen2"), bits=4)
    adapted = learned(models.lora(base, rank=4, alpha=8, key=jr.key(1)))
    check_policy(adapted, key=jr.key(3), length=6)
    assert distance(models.merge(adapted), models.merge(base)) > 1e-2
    trained = [x for x in jax.tree.leaves(adapted.trainable()) if x]
    assert len(trained) == 2 * len(PROJECTIONS)


def test_fewer_bits_are_kept():
    model = transformer()
    eight, four = models.quantize(model), models.quantize(model, bits=4)
    for bits in (4, 8):
        chex.assert_trees_all_equal(models.quantize(four, bits), four)
    again = models.quantize(eight, bits=4)
    assert isinstance(again.layers.gate, models.NF4Matrix)
    adapted = models.lora(model, rank=2, alpha=4, key=jr.key(1))
    found = models.quantize(adapted, bits=4)
    expected = models.lora(four, rank=2, alpha=4, key=jr.key(1))
    chex.assert_trees_all_equal(found, expected)
    with pytest.raises(ValueError, match="4 or 8 bits. Received bits=5"):
        models.quantize(model, bits=5)


@pytest.mark.parametrize("remat", ["nothing", "elementwise"])
def test_no_dense_array_of_all_layers_is_stored_for_a_gradient(remat):
    coarse = models.quantize(models.Transformer(DEEP, remat=remat, key=jr.key(0)), 4)
    adapted = models.lora(coarse, rank=2, alpha=4, key=jr.key(1))
    params, rest = eqx.partition(adapted, adapted.trainable())
    forward = lambda params: policy.logits(eqx.combine(params, rest), TOKENS)
    kept = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(forward, p)[1], params))
    sizes = {x.shape for x in kept}
    shapes = {as_matrix(x).shape for x in coarse.layers.projections.values()}
    assert not sizes & shapes
    assert coarse.layers.gate.codes.shape in sizes


def widest(jaxpr, shapes) -> int:
    """How many arrays of certain shapes a program makes, in all of its parts."""
    own = sum(x.aval.shape in shapes for line in jaxpr.eqns for x in line.outvars)
    inner = [one for line in jaxpr.eqns for one in jaxprs_in_params(line.params)]
    return own + sum(widest(one, shapes) for one in inner)


def test_a_decoder_expands_one_layer_at_a_time():
    """Those of few layers, too, which are unrolled otherwise."""
    coarse = models.quantize(models.Transformer(DEEP, key=jr.key(0)), 4)
    decoder = coarse.for_decoding(8)
    assert len(decoder.stacks) == 1
    assert len(models.merge(coarse).for_decoding(8).stacks) == DEEP.num_layers
    step = lambda p: policy.logits(p, jnp.asarray(TOKENS))
    made = jax.make_jaxpr(step)(decoder).jaxpr
    assert widest(made, {x.shape for x in decoder.stacks[0].projections.values()}) == 0
    assert widest(made, {(128, 192)}) >= 2


needs_eight = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")


@needs_eight
def test_blocks_are_sharded_where_they_divide():
    config = dataclasses.replace(DEEP, num_heads=8, head_dim=16)
    coarse = models.quantize(models.Transformer(config, key=jr.key(0)), 4)
    adapted = models.lora(coarse, rank=2, alpha=4, key=jr.key(1))
    names = adapted.logical_axes().layers
    assert names.output.base.codes.names == ("layer", "heads_blocks", None, "hidden")
    assert names.output.base.codes.pieces == (5, 2, 1, 128)  # Of 8 heads, 4 a block.
    assert names.gate.base.absmax == (("layer", "hidden_blocks", "mlp"), (5, 2, 192))
    assert names.gate.b.names == ("layer", None, "mlp")
    spec = lambda placed, name: tuple(getattr(placed.layers, name).codes.sharding.spec)
    placed = sharding.place(coarse, sharding.make_mesh(data=2, fsdp=2, tensor=2))
    assert spec(placed, "query") == (None, "fsdp", None, "tensor")
    assert spec(placed, "output") == (None, "tensor", None, "fsdp")
    assert spec(placed, "down") == (None, None, None, "fsdp")  # 3 blocks.
    placed = sharding.place(coarse, sharding.make_mesh(fsdp=4, tensor=2))
    assert spec(placed, "query") == (None, None, None, "tensor")  # 2 blocks.


@needs_eight
@pytest.mark.parametrize("sizes", [dict(data=2, fsdp=2, tensor=2)], ids=str)
def test_a_mesh_computes_what_one_device_does(sizes):
    """Logits and gradients, with blocks that are sharded and that are replicated."""
    coarse = models.quantize(models.Transformer(DEEP, key=jr.key(0)), 4)
    adapted = learned(models.lora(coarse, rank=2, alpha=4, key=jr.key(1)))
    tokens = jnp.asarray(np.resize(TOKENS, (4, 9)))

    @eqx.filter_jit
    def evaluate(model):
        params, rest = eqx.partition(model, model.trainable())

        def loss(params):
            model = eqx.combine(params, rest)
            each = jax.vmap(lambda one: policy.logits(model, one))
            found = spmd.vmap_shards(each)(spmd.split_batch(tokens))
            return jnp.sum(jnp.square(found))

        return jax.value_and_grad(loss)(params)

    expected = jax.tree.leaves(evaluate(adapted))
    mesh = sharding.make_mesh(**sizes)
    with jax.set_mesh(mesh):
        found = jax.tree.leaves(evaluate(sharding.place(adapted, mesh)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


ENV = count_env()
STEP = grpojax.TrainStep(
    ENV,
    optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
    rollout=rollout.RolloutConfig(prompts=4, group=4),
)


@needs_eight
@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [dict(data=2, fsdp=2, tensor=2), dict(data=8), dict(fsdp=8)], ids=str
)
def test_steps_on_a_mesh_are_those_of_one_device(sizes):
    sizes_of = {"prompts": 8 if 8 in sizes.values() else 4, "group": 4}
    step = dataclasses.replace(STEP, rollout=rollout.RolloutConfig(**sizes_of))
    coarse = models.quantize(models.Transformer(DEEP, key=jr.key(0)), 4)
    adapted = models.lora(coarse, rank=2, alpha=4, key=jr.key(1))
    run = eqx.filter_jit(lambda state: grpojax.train(state, step, steps=2))
    state, metrics = run(step.init(adapted, key=jr.key(2)))
    mesh = sharding.make_mesh(**sizes)
    with jax.set_mesh(mesh):
        begun = sharding.place(step.init(adapted, key=jr.key(2)), mesh)
        placed, found = run(begun)
    assert distance(placed.policy, state.policy) < 2e-5
    np.testing.assert_allclose(found["reward"], metrics["reward"], atol=1e-5)
    base = models.without_adapters
    chex.assert_trees_all_equal(jax.device_get(base(placed.policy)), base(adapted))


def experts(size):
    block = models.Block(experts=models.Experts(count=4, chosen=2, size=size))
    return dataclasses.replace(DEEP, num_layers=2, block=block)


@needs_eight
@pytest.mark.slow
def test_experts_in_four_bits_on_a_mesh():
    model = models.quantize(models.Transformer(experts(128), key=jr.key(0)), 4)
    assert isinstance(model.layers.expert_gate, models.NF4Matrix)
    tokens = jnp.asarray(np.resize(TOKENS, (4, 9)))

    @eqx.filter_jit
    def evaluate(model):
        each = jax.vmap(lambda one: policy.logits(model, one))
        return spmd.vmap_shards(each)(spmd.split_batch(tokens))

    expected = evaluate(model)
    merged = evaluate(models.merge(model))
    np.testing.assert_allclose(merged, expected, rtol=1e-4, atol=1e-4)
    mesh = sharding.make_mesh(fsdp=2, tensor=2, expert=2)
    with jax.set_mesh(mesh):
        placed = sharding.place(model, mesh)
        found = evaluate(placed)
    spec = tuple(placed.layers.expert_down.codes.sharding.spec)
    assert spec == (None, "expert", "tensor", None, "fsdp")
    found = np.asarray(found).reshape(np.shape(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # A block of an expert's units on two devices has no code to be multiplied by.
    odd = models.quantize(models.Transformer(experts(96), key=jr.key(0)), 4)
    with pytest.raises(ValueError, match="`expert_mlp_blocks` of 1 for the 2 parts"):
        sharding.shardings(odd, mesh)


class Halves(models.AbstractMatrix):
    """A matrix of a stranger's, with the four methods of the contract alone."""

    values: jax.Array

    bits = 16
    shape = property(lambda self: self.values.shape)

    def dense(self, dtype):
        return self.values.astype(dtype) / 2

    def field_axes(self, axes):
        return {"values": axes}


def test_a_matrix_of_ones_own(tmp_path):
    """Is multiplied, adapted, sharded, quantized, merged, and refused by `save`."""
    model = transformer()
    halved = lambda _, x: Halves(2 * x)
    layers = model.layers.map_projections(halved)
    own = eqx.tree_at(lambda p: p.layers, model, layers)
    np.testing.assert_allclose(logits(own, TOKENS), logits(model, TOKENS), atol=1e-5)
    assert not any(jax.tree.leaves(own.trainable()))
    axes = own.logical_axes().layers.gate.values
    assert axes == model.logical_axes().layers.gate and isinstance(axes, Axes)
    adapted = learned(models.lora(own, rank=2, alpha=4, key=jr.key(1)))
    found = logits(adapted.for_decoding(), TOKENS)
    np.testing.assert_allclose(found, logits(adapted, TOKENS), atol=1e-5)
    close = lambda x, y: chex.assert_trees_all_close(x, y, atol=1e-6)
    close(models.merge(own), model)
    chex.assert_trees_all_equal(models.quantize(own, 4), models.quantize(model, 4))
    with pytest.raises(ValueError, match="`query` is Halves"):
        models.save(own, tmp_path / "model")


@pytest.mark.slow
def test_a_policy_of_such_matrices_keeps_the_laws():
    model = transformer()
    layers = model.layers.map_projections(lambda _, x: Halves(2 * x))
    own = eqx.tree_at(lambda p: p.layers, model, layers)
    adapted = learned(models.lora(own, rank=2, alpha=4, key=jr.key(1)))
    check_policy(adapted, key=jr.key(3), length=6)


def test_the_error_is_between_that_of_eight_bits_and_the_weights():
    weight = jr.normal(jr.key(0), (512, 64))
    error = lambda matrix: jnp.sqrt(jnp.mean((matrix.dense("float32") - weight) ** 2))
    eight, four = error(to_int8(weight)), error(to_nf4(weight))
    assert 0.005 < eight < 0.01 and 0.08 < four < 0.11
