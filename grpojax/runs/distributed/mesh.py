"""The device mesh of a run, and the placement of arrays on it."""

import contextlib
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import PyTree

from ... import sharding
from . import processes


_T = TypeVar("_T")


def build_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, expert: int = 1
) -> Mesh | None:
    """A `data` x `fsdp` x `tensor` x `expert` mesh, or `None` for a single device.

    A single process may leave devices unused; several processes use all of theirs.

    **Arguments:**

    - `data`: data-parallel replicas of the weights.
    - `fsdp`: shards of the batch over which the weights are sharded too.
    - `tensor`: tensor-parallel shards of every layer.
    - `expert`: shards of the experts of every layer.

    One of them may be -1, for all remaining devices.

    **Raises:** `ValueError` if the sizes do not multiply to the number of devices.
    """
    devices, count = jax.devices(), data * fsdp * tensor * expert
    if processes.is_multihost():
        if 0 < count != len(devices):
            raise ValueError(
                f"A run of {jax.process_count()} processes computes on all of their "
                f"{len(devices)} devices. Received mesh.data={data}, mesh.fsdp={fsdp}, "
                f"mesh.tensor={tensor}, mesh.expert={expert}: let them multiply to "
                "that, or one of them be -1."
            )
    elif 0 < count < len(devices):
        devices = devices[:count]
    mesh = sharding.make_mesh(
        data=data, fsdp=fsdp, tensor=tensor, expert=expert, devices=devices
    )
    return mesh if mesh.size > 1 else None


def build_actors(mesh: Mesh | None, data: int, fsdp: int, tensor: int) -> Mesh | None:
    """A mesh of the devices that come after those of another mesh.

    **Arguments:**

    - `mesh`: of the devices that learn; `None` for the first one.
    - `data`, `fsdp`, `tensor`: as in `build_mesh`; none is made if `data` is 0.

    **Raises:** `ValueError` if there are too few.
    """
    count, used = data * fsdp * tensor, 1 if mesh is None else mesh.size
    if count == 0:
        return None
    devices = jax.devices()[used : used + count]
    if len(devices) < count:
        raise ValueError(
            f"Actors sample on devices beside those that learn. Received actors.data="
            f"{data}, actors.fsdp={fsdp}, actors.tensor={tensor}, and {len(devices)} "
            f"of {len(jax.devices())} devices beside the mesh: lower one of them, or "
            "leave `actors` out."
        )
    return sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor, devices=devices)


def check_devices() -> None:
    """Checks that JAX has the devices that it was told to use, in 32 bits.

    **Raises:** `ValueError` with JAX's own words.
    """
    try:
        jax.devices()
    except RuntimeError as error:
        raise ValueError(
            f"JAX must find its devices. Received from it: {error}. Check the variable "
            "JAX_PLATFORMS, or leave it unset."
        ) from None
    check_bits()


def check_bits() -> None:
    """Raises a `ValueError` in the mode in which JAX computes in 64 bits."""
    if jax.config.read("jax_enable_x64"):
        raise ValueError(
            "A run computes in 32 bits, in which its results can be repeated. Received "
            "jax_enable_x64=True: unset JAX_ENABLE_X64, or use `jax.enable_x64(False)`."
        )


def use(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """A context in which `mesh` is JAX's ambient mesh; no-op for `None`."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def mesh_of(tree: PyTree) -> Mesh | None:
    """The mesh of several devices on which a tree's arrays are placed, if any."""
    arrays = jax.Array | jax.ShapeDtypeStruct
    shardings = (x.sharding for x in jax.tree.leaves(tree) if isinstance(x, arrays))
    meshes = (s.mesh for s in shardings if isinstance(s, NamedSharding))
    return next((m for m in meshes if isinstance(m, Mesh) and m.size > 1), None)


def place(tree: _T, mesh: Mesh | None) -> _T:
    """A tree sharded as `sharding.shardings` says; unchanged without a mesh."""
    return tree if mesh is None else sharding.place(tree, mesh)


def shapes_of(mesh: Mesh | None) -> Callable[..., PyTree]:
    """A function `(function, *arguments) -> the shapes of its results`, placed."""

    def shapes(function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        return place(eqx.filter_eval_shape(function, *arguments), mesh)

    return shapes


def move(tree: _T, shapes: PyTree, default: Sharding) -> _T:
    """Arrays of other devices, placed as a program of these expects them.

    **Arguments:**

    - `tree`: arrays, and other leaves.
    - `shapes`: `jax.ShapeDtypeStruct`s of its arrays, with their shardings on a mesh.
    - `default`: theirs without a mesh.
    """
    arrays, static = eqx.partition(tree, eqx.is_array)
    to = jax.tree.map(lambda x: x.sharding or default, shapes)
    return eqx.combine(jax.tree.map(jax.device_put, arrays, to), static)


def replicate(tree: _T) -> _T:
    """A tree of arrays replicated over the ambient mesh, inside a compiled program.

    The host of any process can read a replicated array. No-op without a mesh.
    """
    if not jax.sharding.get_abstract_mesh().axis_names:
        return tree
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec()), tree
    )


def describe(mesh: Mesh | None) -> str:
    """A one-line summary of the devices, such as `8 x TPU v4 (fsdp 8)`."""
    devices = jax.devices()
    kind = devices[0].device_kind
    if mesh is None:
        unused = f", the first of {len(devices)}; mesh.fsdp=-1 takes all"
        return kind + (unused if len(devices) > 1 else "")
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    count = jax.process_count()
    of = f" of {count} processes" if count > 1 else ""
    return f"{mesh.size} x {kind}{of} ({sizes})"
