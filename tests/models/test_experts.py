"""Mixtures of experts: the grouped product, routing, and what a model says of them."""

import dataclasses

import equinox as eqx
import families
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from grpojax import models, policy, sharding
from grpojax.models.experts import (
    apply_experts,
    choose_experts,
    ExpertAxes,
    ExpertBiases,
    ExpertMatrices,
)
from grpojax.models.experts._grouped import _Blocks, grouped_product, Groups
from grpojax.models.matrix import to_int8, to_nf4
from grpojax.sharding import spmd
from grpojax.types import Axes


HIDDEN, SIZE = 6, 5
NONE = ExpertAxes(*(Axes((None,) * 3, (1,) * 3) for _ in range(3)))
CONFIG = models.TransformerConfig(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=24,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    block=models.Block(experts=models.Experts(count=8, chosen=2, size=12)),
)


def matrices(experts):
    keys = jr.split(jr.key(0), 3)
    shapes = (experts, HIDDEN, SIZE), (experts, HIDDEN, SIZE), (experts, SIZE, HIDDEN)
    return ExpertMatrices(*(jr.normal(*x) / 3 for x in zip(keys, shapes, strict=True)))


def gated(gate, up):
    return jax.nn.silu(gate) * up


def run(x, logits, of, chosen=2):
    routing = choose_experts(logits, chosen, True)
    return apply_experts(x, routing, of, NONE, gated, "float32")


def by_hand(x, logits, of, chosen=2):
    """Every expert for every token, and the chosen ones' weighted sum."""
    weight, expert = jax.lax.top_k(logits, chosen)
    weight = jax.nn.softmax(weight, axis=-1)
    exact = jax.lax.Precision.HIGHEST
    gate, up = (
        jnp.einsum("th,ehm->tem", x, y, precision=exact) for y in (of.gate, of.up)
    )
    hidden = jax.nn.silu(gate) * up
    y = jnp.einsum("tem,emh->teh", hidden, of.down, precision=exact)
    mine = jnp.take_along_axis(y, expert[:, :, None], axis=1)
    return jnp.sum(mine * weight[:, :, None], axis=1)


@jax.jit
def product(x, matrix, expert):
    groups = Groups.of(expert, 4)
    return grouped_product(x, matrix, groups, "float32"), groups.counts


def test_rows_are_multiplied_by_the_matrix_of_their_expert():
    """And rows without an expert, which come last, are zero."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(15, HIDDEN)).astype(np.float32)
    matrix = draw.normal(size=(4, HIDDEN, SIZE)).astype(np.float32)
    eight, four = jax.jit(to_int8)(matrix), to_nf4(matrix)
    quantized = [(x, np.asarray(x.dense("float32"))) for x in (eight, four)]
    for counts in (3, 0, 9, 1), (0, 0, 0, 13), (5, 8, 0, 0):
        expert = np.repeat(np.arange(5), (*counts, 2)).astype(np.int32)
        for kind, each in ((matrix, matrix), *quantized):
            found, counted = product(x, kind, expert)
            np.testing.assert_array_equal(counted, counts)
            padded = np.concatenate([each, np.zeros((1, HIDDEN, SIZE))])
            expected = np.einsum("ti,tio->to", x, padded[expert])
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_cost_is_that_of_the_chosen_experts():
    """Blocks of rows that are multiplied, whatever the number of experts."""
    count = jax.jit(lambda counts: _Blocks.of(counts, 40, 8).used)
    for experts in (4, 64):
        for counts in ([40], [17, 0, 23], [1, 1, 1]):
            padded = np.array(counts + [0] * (experts - len(counts)), np.int32)
            assert count(padded) == sum(-(-count // 8) for count in counts)


@pytest.mark.parametrize("experts, chosen", [(2, 1), (16, 8)])
def test_a_batch_is_its_rows_forward_and_backward(experts, chosen):
    of = matrices(experts)
    x = jr.normal(jr.key(3), (2, 3, 4, HIDDEN))
    logits = 2 * jr.normal(jr.key(4), (2, 3, 4, experts))

    def totals(function):
        @jax.jit
        def evaluate(x, logits, of):
            def total(x, logits, of):
                each = jax.vmap(jax.vmap(lambda *rows: function(*rows, of, chosen)))
                found = each(x, logits)
                return jnp.sum(jnp.sin(found)), found

            return jax.value_and_grad(total, (0, 1, 2), has_aux=True)(x, logits, of)

        return jax.tree.leaves(evaluate(x, logits, of))

    for one, other in zip(totals(run), totals(by_hand), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_biases_are_those_of_the_chosen_experts():
    """Forward and backward; a down projection's is weighted like its output."""
    of, x = matrices(4), jr.normal(jr.key(3), (7, HIDDEN))
    logits = 2 * jr.normal(jr.key(4), (7, 4))
    keys = jr.split(jr.key(5), 3)
    shapes = (4, SIZE), (4, SIZE), (4, HIDDEN)
    biases = [jr.normal(*one) for one in zip(keys, shapes, strict=True)]

    def ours(x, of, biases):
        routing = choose_experts(logits, 2, True)
        own = ExpertBiases(*biases, Axes((None,) * 2, (1,) * 2))
        return apply_experts(x, routing, of, NONE, gated, "float32", own)

    def wanted(x, of, biases):
        """Every expert for every token, and the chosen ones' weighted sum."""
        weight, expert = jax.lax.top_k(logits, 2)
        weight = jax.nn.softmax(weight, axis=-1)
        exact = dict(precision=jax.lax.Precision.HIGHEST)
        gate, up = (
            jnp.einsum("th,ehm->tem", x, y, **exact) + bias
            for y, bias in zip(of[:2], biases[:2], strict=True)
        )
        y = jnp.einsum("tem,emh->teh", gated(gate, up), of.down, **exact) + biases[2]
        mine = jnp.take_along_axis(y, expert[:, :, None], axis=1)
        return jnp.sum(mine * weight[:, :, None], axis=1)

    def evaluate(function):
        loss = lambda *them: jnp.sum(jnp.sin(function(*them)))
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(x, of, biases)

    both = map(jax.tree.leaves, map(evaluate, (ours, wanted)))
    for one, other in zip(*both, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_a_gradient_of_each_element_and_weights_for_each():
    of, x = matrices(3), jr.normal(jr.key(3), (2, 4, HIDDEN))
    logits = 2 * jr.normal(jr.key(4), (2, 4, 3))

    def evaluate(function):
        @jax.jit
        def both(x, logits, of):
            loss = lambda x, y, of: jnp.sum(function(x, y, of))
            gradients = jax.vmap(jax.grad(loss, (0, 1, 2)), (0, 0, None))
            many = jax.tree.map(lambda y: jnp.stack([y, y / 2]), of)
            values = jax.vmap(lambda of: function(x[0], logits[0], of))(many)
            return gradients(x, logits, of), values

        return jax.tree.leaves(both(x, logits, of))

    for one, other in zip(evaluate(run), evaluate(by_hand), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_accelerators_compute_the_same(monkeypatch):
    """Their product is `jax.lax.ragged_dot`; here it is interpreted on a CPU."""
    expert = jnp.asarray(np.repeat(np.arange(5), (3, 0, 7, 1, 2)), jnp.int32)
    x = jr.normal(jr.key(1), (len(expert), HIDDEN))
    matrix = matrices(4).gate

    def evaluate():
        def total(x, matrix):
            found = grouped_product(x, matrix, Groups.of(expert, 4), "float32")
            return jnp.sum(jnp.sin(found))

        return jax.jit(jax.value_and_grad(total, (0, 1)))(x, matrix)

    blocks = evaluate()
    monkeypatch.setattr(spmd, "platform", lambda: "tpu")
    for one, other in zip(*map(jax.tree.leaves, (blocks, evaluate())), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_token_has_its_experts_whatever_the_others_choose():
    """No expert has a capacity."""
    of, x = matrices(4), jr.normal(jr.key(5), (33, HIDDEN))
    logits = jr.normal(jr.key(6), (33, 4)).at[1:].add(jnp.array([90.0, 80, 0, 0]))
    alone = jax.jit(run)(x[:1], logits[:1], of)
    np.testing.assert_allclose(jax.jit(run)(x, logits, of)[:1], alone, atol=1e-6)


def equations(jaxpr):
    inner = [jaxprs_in_params(equation.params) for equation in jaxpr.eqns]
    return len(jaxpr.eqns) + sum(equations(one) for several in inner for one in several)


@pytest.mark.parametrize("dense", [(), (0, 2)])
def test_a_program_is_as_long_for_more_layers_and_more_experts(dense):
    counts = set()
    for depth, count in ((4, 4), (12, 4), (4, 64)):
        experts = models.Experts(count, 2, 12, dense=dense)
        block = models.Block(experts=experts)
        config = dataclasses.replace(CONFIG, num_layers=depth, block=block)
        shapes = eqx.filter_eval_shape(models.Transformer, config, key=jr.key(0))
        tokens = jax.ShapeDtypeStruct((7,), jnp.int32)
        total = lambda p, t: jnp.sum(policy.logits(p, t))
        made = jax.make_jaxpr(jax.grad(total))(shapes, tokens)
        counts.add(equations(made.jaxpr))
    assert len(counts) == 1


def test_a_batch_is_sorted_once():
    """The rows of all sequences are those of one call."""
    shapes = eqx.filter_eval_shape(models.Transformer, CONFIG, key=jr.key(0))
    tokens = jax.ShapeDtypeStruct((5, 7), jnp.int32)
    program = jax.make_jaxpr(lambda p, t: jax.vmap(lambda t: policy.logits(p, t))(t))
    text = str(program(shapes, tokens))
    assert text.count("grpojax_map_rows") == 1
    assert "f32[5,7,16]" in text.split("grpojax_map_rows")[0].splitlines()[-1]


@pytest.mark.parametrize(
    "experts, message",
    [
        (models.Experts(4, 5, 12), "some of the layer's. Received"),
        (models.Experts(0, 1, 12), "Experts.count must be a positive integer"),
        (models.Experts(4, 2, 12, dense=(9,)), "numbers the layers without experts"),
        (models.Experts(4, 2, 12, dense=(0, 1, 2, 3)), "some layer has experts"),
    ],
)
def test_experts_that_no_layer_can_have(experts, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, block=models.Block(experts=experts))


def test_adapters_belong_to_attention():
    model = models.Transformer(CONFIG, key=jr.key(0))
    adapted = models.lora(model, rank=2, alpha=4, key=jr.key(1))
    assert list(models.adapters(adapted)) == ["query", "key", "value", "output"]
    with pytest.raises(ValueError, match="belong to its attention.* Received gate"):
        models.lora(model, ("query", "gate"), rank=2, alpha=4, key=jr.key(1))


def test_an_expert_axis_computes_what_one_device_does():
    """Logits and gradients; experts of odd sizes, and layers without any."""
    if len(jax.devices()) < 8:
        pytest.skip("needs eight devices")
    block = models.Block(experts=models.Experts(4, 2, 6, dense=(1,)))
    config = dataclasses.replace(CONFIG, num_layers=3, block=block)
    model = models.Transformer(config, key=jr.key(0))
    tokens = jnp.asarray(np.resize(families.TOKENS, (4, 9)))

    @eqx.filter_jit
    def evaluate(model):
        def loss(model):
            rows = spmd.split_batch(tokens)
            each = jax.vmap(lambda one: policy.logits(model, one))
            found = spmd.vmap_shards(each)(rows)
            return jnp.sum(jnp.square(found))

        return eqx.filter_value_and_grad(loss)(model)

    expected = jax.tree.leaves(evaluate(model))
    for sizes in (dict(expert=4, fsdp=2), dict(data=2, tensor=2, expert=2)):
        mesh = sharding.make_mesh(**sizes)
        with jax.set_mesh(mesh):
            found = jax.tree.leaves(evaluate(sharding.place(model, mesh)))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="choose a size that divides 4"):
        sharding.shardings(model, sharding.make_mesh(expert=8))


def test_a_family_is_said_to_save_experts(tmp_path):
    model = models.Transformer(CONFIG, key=jr.key(0))
    with pytest.raises(ValueError, match="Set TransformerConfig.family"):
        models.save(model, tmp_path / "model")
    config = dataclasses.replace(CONFIG, family="qwen3_moe", qk_norm=True)
    models.save(models.Transformer(config, key=jr.key(0)), tmp_path / "model")
    assert models.load(tmp_path / "model").config == config
