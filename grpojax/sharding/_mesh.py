"""The mesh: its axes, its construction, and queries about the one that is set."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh


BATCH = ("data", "fsdp")
"""The mesh axes that the batch's prompts are split over."""

WITHIN_LAYERS = ("tensor", "expert")
"""The mesh axes that the weights of a layer are split over while it is computed."""

NAMES = (*BATCH, *WITHIN_LAYERS)
"""The axes of every mesh."""


def make_mesh(
    *,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    expert: int = 1,
    devices: Sequence | None = None,
) -> Mesh:
    """A mesh of devices with the axes `data`, `fsdp`, `tensor` and `expert`.

    One of the sizes may be -1: it is inferred from the number of devices.

    **Arguments:**

    - `data`: size of the data-parallel axis; weights are replicated over it.
    - `fsdp`: size of the data-parallel axis over which weights are sharded.
    - `tensor`: size of the tensor-parallel axis, for devices with fast links.
    - `expert`: size of the axis over which the experts of a layer are split.
    - `devices`: the devices of the mesh; `jax.devices()` by default.

    **Returns:** a `jax.sharding.Mesh`, for `place` and `jax.set_mesh`.

    **Raises:** `ValueError` unless the sizes multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    given = data, fsdp, tensor, expert
    sizes: dict[str, int] = dict(zip(NAMES, given, strict=True))
    inferred = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    named = ", ".join(f"{name}={size}" for name, size in sizes.items())
    if len(inferred) > 1 or any(s < 1 for s in sizes.values() if s != -1):
        raise ValueError(
            "The sizes of a mesh's axes are positive, and one of them may be -1 to be "
            f"inferred. Received {named}."
        )
    if inferred and len(devices) % known == 0:
        sizes[inferred[0]] = len(devices) // known
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            "The axes of a mesh multiply to the number of devices. Received "
            f"{named} for {len(devices)} devices: change one, or pass fewer `devices`."
        )
    return jax.make_mesh(
        tuple(sizes.values()), NAMES, (AxisType.Auto,) * len(NAMES), devices=devices
    )


def ambient_mesh() -> AbstractMesh | None:
    """The mesh set by `jax.set_mesh`, if it has our axes; `None` otherwise."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if set(NAMES) <= set(mesh.axis_names) else None


def batch_axes(mesh: AbstractMesh) -> tuple[str, ...]:
    """The batch axes left to the compiler; none of them inside `shard_map_batch`."""
    return tuple(name for name in BATCH if name not in mesh.manual_axes)


def is_tensor_parallel() -> bool:
    """Whether layers are computed on several devices, along `tensor` or `expert`."""
    mesh = ambient_mesh()
    return mesh is not None and layer_shards(mesh) > 1


def layer_shards(mesh: Mesh | AbstractMesh) -> int:
    """Over how many devices the weights of a layer are split while it is computed."""
    return math.prod(mesh.shape[name] for name in WITHIN_LAYERS)


def is_auto_sharded() -> bool:
    """Whether the compiler partitions what is traced here over several devices.

    Pallas kernels cannot be auto-partitioned. Inside of `shard_map` the manual axes
    do not count, so there only `tensor` and `expert` can be left.
    """
    mesh = ambient_mesh()
    if mesh is None:
        return False
    return any(mesh.shape[x] > 1 for x in NAMES if x not in mesh.manual_axes)


def platform() -> str:
    """Platform of the devices that are compiled for: the mesh's, or the default's."""
    mesh = ambient_mesh()
    device = None if mesh is None else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform
