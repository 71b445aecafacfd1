"""Rematerialization: the same gradient, less memory, more work."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from grpojax import models
from grpojax.models.attention import gpu
from grpojax.sharding import spmd
from tests.helpers import CONFIGS, mostly_slow


NAMES = ("nothing", "elementwise", "mlp", "layers")


def loss(policy, ids):
    hidden, _ = policy.extend(ids, jnp.arange(ids.shape[0]))
    return jnp.sum(jax.nn.log_softmax(policy.logits(hidden))[:, 0])


@pytest.mark.slow
def test_no_name_changes_the_gradient():
    ids = jnp.arange(6)

    @eqx.filter_jit
    def gradient(remat):
        policy = models.Transformer(CONFIGS["qwen3"], remat=remat, key=jr.key(0))
        return jax.tree.leaves(eqx.filter_grad(loss)(policy, ids))

    expected = gradient("nothing")
    for name in NAMES[1:]:
        for a, b in zip(expected, gradient(name), strict=True):
            scale = np.abs(a).max()
            assert scale > 0
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("remat", mostly_slow(NAMES, ["elementwise"]))
def test_unrolled_layers_have_the_gradient_of_a_scan(remat, monkeypatch):
    """As a GPU trains; attention stays what it is here."""
    policy = models.Transformer(CONFIGS["qwen3"], remat=remat, key=jr.key(0))
    ids = jnp.arange(6)
    arrays, static = eqx.partition(policy, eqx.is_array)

    def compute():
        gradient = lambda x: jax.grad(lambda x: loss(eqx.combine(x, static), ids))(x)
        lowered = jax.jit(gradient).lower(arrays)
        names = "stablehlo.while", "stablehlo.optimization_barrier"
        counts = tuple(map(lowered.as_text().count, names))
        return counts, lowered.compile()(arrays)

    (loops, barriers), expected = compute()
    assert (loops, barriers) == (2, 0)
    monkeypatch.setattr(spmd, "platform", lambda: "gpu")
    monkeypatch.setattr(gpu, "supports_kernel", lambda *_: False)
    (loops, barriers), actual = compute()
    assert loops == 0
    assert barriers > 0  # Layers call one function.
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        scale = np.abs(a).max()
        assert scale > 0
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6 * scale)


def test_each_name_takes_less_memory_and_more_work_than_the_one_before():
    """By the compiler's account, in a model whose MLP is wide, as they are."""
    config = models.TransformerConfig(
        vocab_size=16,
        hidden_size=64,
        intermediate_size=256,
        num_layers=8,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
    )
    ids = jax.ShapeDtypeStruct((4, 128), jnp.int32)

    def cost(remat):
        make = lambda: models.Transformer(config, remat=remat, key=jr.key(0))
        shapes = eqx.filter_eval_shape(make)
        is_shape = lambda x: isinstance(x, jax.ShapeDtypeStruct)
        arrays, static = eqx.partition(shapes, is_shape)

        def total(arrays, ids):
            policy = eqx.combine(arrays, static)
            return jnp.sum(jax.vmap(lambda row: loss(policy, row))(ids))

        program = jax.jit(jax.grad(total)).lower(arrays, ids).compile()
        flops = program.cost_analysis()["flops"]
        return program.memory_analysis().temp_size_in_bytes, flops

    costs = [cost(name) for name in NAMES]
    for (more, before), (less, after) in itertools.pairwise(costs):
        assert less < 0.9 * more
        # What lies between products is next to nothing, and the account is not exact.
        assert after > 0.99 * before
    assert costs[-1][1] > 1.2 * costs[0][1]


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="nothing, elementwise, mlp, layers. Receiv"):
        models.Transformer(CONFIGS["qwen3"], remat="all", key=jr.key(0))
