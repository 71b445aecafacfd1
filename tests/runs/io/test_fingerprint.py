import random

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from grpojax.rollout import Categorical, Greedy
from grpojax.runs.io.fingerprint import fingerprint, settings

from ...helpers import transformer


POLICY = transformer()


def test_a_fingerprint_tells_one_bit():
    assert fingerprint(POLICY) == fingerprint(transformer())
    for seed in range(4):
        leaves, structure = jax.tree.flatten(eqx.filter(POLICY, eqx.is_array))
        draw = random.Random(seed)
        which = draw.randrange(len(leaves))
        words = np.array(leaves[which])
        flat = words.view(np.uint32).reshape(-1)
        flat[draw.randrange(flat.size)] ^= 1 << draw.randrange(32)
        leaves[which] = jax.numpy.asarray(words)
        changed = eqx.combine(jax.tree.unflatten(structure, leaves), POLICY)
        assert fingerprint(changed) != fingerprint(POLICY)
    swapped = eqx.tree_at(lambda p: p.embedding, POLICY, POLICY.embedding[::-1])
    assert fingerprint(swapped) != fingerprint(POLICY)
    assert fingerprint(jr.key(0)) != fingerprint(jr.key(1))
    for dtype in ("bfloat16", "bool", "int8", "float32"):
        ones = jax.numpy.ones(3, dtype)
        assert (
            fingerprint(ones)
            == fingerprint(ones)
            != fingerprint(jax.numpy.zeros_like(ones))
        )


def test_a_fingerprint_is_the_same_in_every_layout():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("x",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    x = jr.normal(jr.key(0), (6, 5))
    assert fingerprint(jax.device_put(x, spread)) == fingerprint(x)


def test_settings_are_plain_values():
    assert settings(Categorical(0.5)) == {"name": "Categorical", "temperature": 0.5}
    array = Categorical(jax.numpy.asarray(0.5))
    assert settings(array) == settings(Categorical(0.5))
    assert settings(Greedy()) == {"name": "Greedy"}
    assert settings(POLICY)["config"]["num_layers"] == 2
