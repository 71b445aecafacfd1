"""Weights that are read, drawn and written shard by shard."""

import shutil

import equinox as eqx
import jax
import jax.random as jr
import ml_dtypes
import numpy as np
import pytest

from grpojax import models, sharding
from grpojax.models.files._safetensors import StoredTensor
from tests.helpers import mostly_slow


CONFIG = models.TransformerConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    qkv_bias=True,
)
MESHES = {
    "2x2x2": dict(data=2, fsdp=2, tensor=2),
    "1x8x1": dict(fsdp=8),
    "8x1x1": dict(data=8),
}

pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 8,
    reason="needs eight devices: XLA_FLAGS=--xla_force_host_platform_device_count=8",
)
each = pytest.mark.parametrize(
    "sizes", mostly_slow(MESHES.values(), [MESHES["2x2x2"]]), ids=MESHES
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    models.save(models.Transformer(CONFIG, key=jr.key(0)), path)
    return path


def assert_placed(policy, mesh):
    places = jax.tree.leaves(sharding.shardings(policy, mesh))
    leaves = jax.tree.leaves(policy)
    assert all(x.sharding == y for x, y in zip(leaves, places, strict=True))


def assert_same(policy, other):
    assert jax.tree.structure(policy) == jax.tree.structure(other)
    pairs = zip(jax.tree.leaves(policy), jax.tree.leaves(other), strict=True)
    for x, y in pairs:
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@each
@pytest.mark.parametrize("dtype", [None, ml_dtypes.bfloat16])
def test_only_a_device_s_shard_is_read(directory, monkeypatch, sizes, dtype):
    whole = models.load(directory, dtype=dtype)
    read, sizes_read = StoredTensor.read, {}

    def counting(self, part=None):
        found = read(self, part)
        sizes_read.setdefault(self.name, []).append(found.size)
        return found

    monkeypatch.setattr(StoredTensor, "read", counting)
    mesh = sharding.make_mesh(**sizes)
    policy = models.load(directory, dtype=dtype, mesh=mesh)
    assert_same(policy, whole)
    assert_placed(policy, mesh)
    gate = [n for name, n in sizes_read.items() if "gate_proj" in name]
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    # Each part once, whatever the number of devices that hold it.
    assert gate == [[48 * 16 // parts] * parts] * 3


@each
def test_a_sharded_policy_is_saved_to_the_same_bytes(directory, tmp_path, sizes):
    policy = models.load(directory, mesh=sharding.make_mesh(**sizes))
    models.save(policy, tmp_path)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


@each
def test_weights_are_initialized_sharded(sizes):
    """As the documentation says: compiled, with the shardings of the results."""
    make = lambda key: models.Transformer(CONFIG, key=key)
    mesh = sharding.make_mesh(**sizes)
    places = sharding.shardings(eqx.filter_eval_shape(make, jr.key(0)), mesh)
    policy = jax.jit(make, out_shardings=places)(jr.key(0))
    assert_placed(policy, mesh)
    assert_same(policy, jax.jit(make)(jr.key(0)))


@each
def test_shapes_are_those_of_what_is_loaded(directory, tmp_path, sizes):
    """From config.json alone; on a mesh they have the shardings of the weights."""
    shutil.copy(directory / "config.json", tmp_path)
    for mesh in (None, sharding.make_mesh(**sizes)):
        read = lambda load, path, mesh=mesh: load(
            path, dtype="bfloat16", cache_dtype="int8", remat="mlp", mesh=mesh
        )
        shapes = read(models.load_shapes, tmp_path)
        whole = read(models.load, directory)
        assert jax.tree.structure(shapes) == jax.tree.structure(whole)
        pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(whole), strict=True)
        for x, y in pairs:
            assert (x.shape, x.dtype) == (y.shape, y.dtype)
            assert x.sharding == (None if mesh is None else y.sharding)
    with pytest.raises(ValueError, match="float32, float16 or bfloat16"):
        models.load_shapes(tmp_path, dtype="int8")
