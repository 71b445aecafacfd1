"""Which devices compute a run, and where its arrays are placed."""

import chex
import jax
import jax.numpy as jnp
import pytest

from grpojax.runs.distributed.mesh import build_mesh, describe, place, replicate, use

from ...helpers import transformer


pytestmark = pytest.mark.skipif(
    len(jax.devices()) < 8,
    reason="needs eight devices: XLA_FLAGS=--xla_force_host_platform_device_count=8",
)


def test_one_device_is_the_default_and_unused_ones_are_named():
    assert build_mesh() is None
    assert "the first of 8; mesh.fsdp=-1 takes all" in describe(None)


@pytest.mark.parametrize(
    "sizes, shape",
    [
        (dict(fsdp=-1), (1, 8, 1)),
        (dict(data=2, fsdp=-1, tensor=2), (2, 2, 2)),
        (dict(fsdp=2, tensor=2), (1, 2, 2)),
    ],
)
def test_meshes(sizes, shape):
    mesh = build_mesh(**sizes)
    assert mesh is not None and tuple(mesh.shape.values()) == (*shape, 1)
    assert mesh.devices.flat[0] == jax.devices()[0]
    assert describe(mesh).startswith(f"{mesh.size} x ")


@pytest.mark.parametrize(
    "sizes, message",
    [
        (dict(data=16), "multiply to the number of devices"),
        (dict(data=3, fsdp=-1), "multiply to the number of devices"),
        (dict(data=-1, fsdp=-1), "one of them may be -1"),
        (dict(tensor=0), "are positive"),
    ],
)
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        build_mesh(**sizes)


def test_replicated_arrays_are_read_by_the_host():
    mesh, policy = build_mesh(fsdp=4), transformer()
    assert replicate(policy) is policy
    with use(mesh):
        made = jax.jit(lambda x: replicate(jnp.arange(8.0) + x))(1.0)
    assert made.sharding.is_fully_replicated and len(made.sharding.device_set) == 4


def test_placement_changes_no_bit():
    policy = transformer()
    assert place(policy, None) is policy
    chex.assert_trees_all_equal(place(policy, build_mesh(fsdp=2, tensor=2)), policy)
