"""The batch's axis of prompts, split over the data-parallel shards."""

import math

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree, Shaped

from ._mesh import ambient_mesh, batch_axes


def shards() -> int:
    """How many data-parallel shards the prompts are split over."""
    mesh = ambient_mesh()
    if mesh is None:
        return 1
    return math.prod(mesh.shape[name] for name in batch_axes(mesh))


def check_prompts(name: str, prompts: int) -> None:
    """Checks that the shards of the mesh that is set divide a number of prompts.

    **Arguments:**

    - `name`: what the caller calls that number, for the error message.
    - `prompts`: the number of prompts.

    **Raises:** `ValueError` if they do not.
    """
    if prompts % shards():
        raise ValueError(
            f"{name} must be a multiple of the mesh's data-parallel shards, "
            f"data x fsdp = {shards()}. Received {name}={prompts}."
        )


def split_batch(
    tree: PyTree[Shaped[Array, "prompt ..."]],
) -> PyTree[Shaped[Array, "shard _ ..."]]:
    """Splits the axis of prompts into shards and each shard's prompts."""
    count = shards()
    return _constrain(jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tree))


def merge_batch(
    tree: PyTree[Shaped[Array, "shard _ ..."]],
) -> PyTree[Shaped[Array, "prompt ..."]]:
    """Merges shards and their prompts into one axis: the inverse of `split_batch`."""
    return _constrain(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree))


def permute_batch(
    tree: PyTree[Shaped[Array, "prompt ..."]], order: Int[Array, " prompt"]
) -> PyTree[Shaped[Array, "prompt ..."]]:
    """Permutes the prompts, across shards."""
    return _constrain(jax.tree.map(lambda x: x[order], tree))


def _constrain(tree: PyTree) -> PyTree:
    """Shards the leading axis over the batch's mesh axes."""
    mesh = ambient_mesh()
    if mesh is None:
        return tree
    leading = NamedSharding(mesh, PartitionSpec(batch_axes(mesh)))
    return jax.lax.with_sharding_constraint(tree, leading)
