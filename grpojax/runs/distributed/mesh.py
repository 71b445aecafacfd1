"""Which devices compute a run, and how arrays get there."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TypeVar

import jax
from jax.sharding import Mesh, PartitionSpec

from ... import sharding
from ..recipe.schema import Recipe
from . import processes


_T = TypeVar("_T")


def build_mesh(recipe: Recipe) -> Mesh | None:
    """The devices of a recipe's section `mesh`; `None` for the first one alone.

    A process that is alone may leave devices unused; several use all that they have.

    **Raises:** `ValueError` if there are not as many.
    """
    sizes, devices = dataclasses.asdict(recipe.mesh), jax.devices()
    count = recipe.mesh.data * recipe.mesh.fsdp * recipe.mesh.tensor
    if processes.several():
        if 0 < count != len(devices):
            raise ValueError(
                f"A run of {jax.process_count()} processes computes on all of their "
                f"{len(devices)} devices. Received mesh.data={recipe.mesh.data}, "
                f"mesh.fsdp={recipe.mesh.fsdp}, mesh.tensor={recipe.mesh.tensor}: let "
                "them multiply to that, or one of them be -1."
            )
    elif 0 < count < len(devices):
        devices = devices[:count]
    mesh = sharding.make_mesh(**sizes, devices=devices)
    return mesh if mesh.size > 1 else None


@contextlib.contextmanager
def on(mesh: Mesh | None) -> Iterator[None]:
    """What is traced and run in here knows of the mesh, if there is one."""
    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh):
        yield


def put(tree: _T, mesh: Mesh | None) -> _T:
    """A tree where `sharding.shardings` says, or as it is without a mesh."""
    return tree if mesh is None else sharding.place(tree, mesh)


def everywhere(tree: _T) -> _T:
    """The tree with its arrays whole on every device, inside a compiled program.

    The host of any process can then read them.
    """
    if not jax.sharding.get_abstract_mesh().axis_names:
        return tree
    whole = lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec())
    return jax.tree.map(whole, tree)


def describe(mesh: Mesh | None) -> str:
    """Where a run is computed, in a few words."""
    devices = jax.devices()
    kind = devices[0].device_kind
    if mesh is None:
        unused = f", the first of {len(devices)}; mesh.fsdp=-1 takes all"
        return kind + (unused if len(devices) > 1 else "")
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    count = jax.process_count()
    of = f" of {count} processes" if count > 1 else ""
    return f"{mesh.size} x {kind}{of} ({sizes})"
