"""Where arrays live, said once.

A mesh has three axes. Prompts are dealt out over `data` and `fsdp`; weights, and the
optimizer's state with them, are cut over `fsdp` and put together layer by layer when
they are needed; `tensor` cuts heads, the multilayer perceptron and the vocabulary.

    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    state = sharding.place(state, mesh)
    with jax.set_mesh(mesh):
        state, metrics = step(state)

A policy names the axes of its arrays (`AbstractPolicy.logical_axes`), a table says
which mesh axes a name is cut over, and the rest is the compiler's. Everything here asks
the mesh that `jax.set_mesh` has set; without one it changes nothing.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree, Shaped

from .policy import AbstractPolicy
from .types import Axes


_T = TypeVar("_T")
_Name = str  # Of a field, a key or an index on the way to an array.

BATCH = ("data", "fsdp")
"""The mesh axes that prompts are dealt out over."""

NAMES = (*BATCH, "tensor")
"""The axes of every mesh."""


class Rule(NamedTuple):
    """What a logical axis is cut over.

    **Fields:**

    - `over`: names of mesh axes.
    - `replicate_if_indivisible`: whether an axis that cannot be cut evenly stays whole; else it is an
        error.
    """

    over: tuple[str, ...]
    replicate_if_indivisible: bool = False


Table = Mapping[str, Rule]

DECODING: Table = {
    "vocab": Rule(("tensor",), replicate_if_indivisible=True),
    "heads": Rule(("tensor",)),
    # Few of them serve many heads: each device may hold them all.
    "kv_heads": Rule(("tensor",), replicate_if_indivisible=True),
    "mlp": Rule(("tensor",)),
}
"""What is multiplied with: no token waits for a weight from another shard."""

TRAINING: Table = {**DECODING, "hidden": Rule(("fsdp",))}
"""What is kept between steps: every weight lies once in each part of `data`."""


def make_mesh(
    *,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence | None = None,
) -> Mesh:
    """A mesh of devices.

    **Arguments:**

    - `data`: parts of the batch that each hold all of the weights.
    - `fsdp`: parts of the batch that the weights are cut over.
    - `tensor`: parts that every layer is cut in, for devices with fast links.
    - `devices`: `jax.Device`s; all there are when `None`.

    One of the three may be -1: as many as are left.

    **Raises:** `ValueError` if they do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes: dict[str, int] = dict(zip(NAMES, (data, fsdp, tensor), strict=True))
    open_axes = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    given = ", ".join(f"{name}={size}" for name, size in sizes.items())
    if len(open_axes) > 1 or any(s < 1 for s in sizes.values() if s != -1):
        raise ValueError(
            "The axes of a mesh are positive, and one of them may be -1 for what is "
            f"left. Received {given}."
        )
    if open_axes and len(devices) % known == 0:
        sizes[open_axes[0]] = len(devices) // known
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            "The axes of a mesh multiply to the number of devices. Received "
            f"{given} for {len(devices)} devices: change one, or pass fewer `devices`."
        )
    return jax.make_mesh(
        tuple(sizes.values()), NAMES, (AxisType.Auto,) * 3, devices=devices
    )


def shardings(
    tree: PyTree, mesh: Mesh | AbstractMesh, table: Table = TRAINING
) -> PyTree[NamedSharding]:
    """The tree with a sharding in the place of every array, and `None` elsewhere.

    Weights are cut as their policy's logical axes and the table say. An array outside
    of a policy that lies at the same path below its own tree, such as a moment in an
    optimizer's state, follows the weight of that path and shape. All others are whole
    on every device.

    **Arguments:**

    - `tree`: a `TrainState`, a policy, or anything else; of arrays or of their shapes.
    - `mesh`: from `make_mesh`.
    - `table`: which mesh axes a logical axis is cut over.

    **Raises:** `ValueError` for an axis that cannot be cut evenly, with the numbers.
    """
    known = dict(_named(tree))

    def place(path, leaf):
        if not _is_array(leaf):
            return None
        names = tuple(_name(key) for key in path)
        for start in range(len(names)):
            found = known.get(names[start:])
            if found is not None and found.shape == leaf.shape:
                spec = _cut(found.axes, mesh, table, ".".join(names[start:]))
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree_util.tree_map_with_path(place, tree)


def place(tree: _T, mesh: Mesh, table: Table = TRAINING) -> _T:
    """The tree with its arrays where `shardings` says.

    In a run of many processes each of them is given the same values and keeps its part.
    """

    def put(leaf, sharding):
        if sharding is None:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if sharding.is_fully_addressable or leaf.sharding == sharding:
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])

    arrays, static = eqx.partition(tree, _is_array)
    arrays = jax.tree.map(put, arrays, shardings(arrays, mesh, table))
    return eqx.combine(arrays, static)


def constrain(tree: _T, table: Table = TRAINING) -> _T:
    """The tree with its arrays where `shardings` says, inside a compiled program."""
    mesh = _ambient()
    if mesh is None:
        return tree
    arrays, static = eqx.partition(tree, _is_array)
    put = jax.lax.with_sharding_constraint
    arrays = jax.tree.map(put, arrays, shardings(arrays, mesh, table))
    return eqx.combine(arrays, static)


def shards() -> int:
    """How many parts the prompts are dealt out to."""
    mesh = _ambient()
    return 1 if mesh is None else math.prod(mesh.shape[name] for name in _batch(mesh))


def check_prompts(name: str, prompts: int) -> None:
    """Refuses a number of prompts that cannot be dealt out.

    **Raises:** `ValueError`, under the name that the caller knows.
    """
    if prompts % shards():
        raise ValueError(
            f"{name} must be a multiple of the parts that a mesh deals prompts out to, "
            f"data x fsdp = {shards()}. Received {name}={prompts}."
        )


def shard_map_batch(function: Callable[..., _T], whole: PyTree, *cut: PyTree) -> _T:
    """Calls `function(whole, *cut)` in every shard, on its own prompts.

    Shards know nothing of one another: each runs its own loops, as long as it needs.

    **Arguments:**

    - `whole`: what every shard is given.
    - `cut`: arrays with the axis of prompts, or of rows prompt after prompt, in front.

    **Returns:** what it returned, put together along that axis.
    """
    mesh = _ambient()
    if mesh is None or shards() == 1:
        return function(whole, *cut)
    return _shard_map(function, mesh, _batch(mesh), whole, *cut)


def shard_map_data_parallel(
    function: Callable[..., _T], whole: PyTree, *cut: PyTree
) -> _T:
    """As `shard_map_batch`, where every shard holds all of the policy: on a mesh of `data`.

    Where weights are cut, shards need one another, and the function is called for all.
    """
    mesh = _ambient()
    if mesh is None or mesh.size > mesh.shape["data"]:
        return function(whole, *cut)
    return shard_map_batch(function, whole, *cut)


def on_hosts(function: Callable[..., _T], *cut: PyTree[Array]) -> _T:
    """Calls a function with a host callback once in every shard, on its own prompts.

    Of the devices that cut a layer one calls, and the others are told.
    """
    mesh = _ambient()
    if mesh is None or mesh.size == 1:
        return function(*cut)

    def run(_, *cut):
        nothing = lambda *_: jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *cut)
        )
        said = jax.lax.cond(jax.lax.axis_index("tensor") == 0, function, nothing, *cut)
        wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.int32))
        tell = lambda x: jax.lax.psum(wide(x), "tensor").astype(x.dtype)
        return jax.tree.map(tell, said)

    return _shard_map(run, mesh, NAMES, None, *cut)


def _shard_map(
    function: Callable[..., _T],
    mesh: AbstractMesh,
    axes: Sequence[str],
    whole: PyTree,
    *cut: PyTree,
) -> _T:
    arrays, static = eqx.partition((whole, cut), eqx.is_array)

    def run(arrays):
        whole, cut = eqx.combine(arrays, static)
        return function(whole, *cut)

    batch = PartitionSpec(_batch(mesh))
    return jax.shard_map(
        run,
        mesh=mesh,
        in_specs=((PartitionSpec(), batch),),
        out_specs=batch,
        axis_names=set(axes),
        check_vma=False,
    )(arrays)


def vmap_shards(function: Callable[..., _T]) -> Callable[..., _T]:
    """Maps over the axis of shards that `split_batch` puts in front of every argument."""
    count, mesh = shards(), _ambient()
    if mesh is None or count == 1:
        first = lambda tree: jax.tree.map(lambda x: x[0], tree)
        return lambda *trees: jax.tree.map(
            lambda x: x[None], function(*(first(tree) for tree in trees))
        )
    return jax.vmap(function, spmd_axis_name=_batch(mesh))


def split_batch(tree: PyTree[Shaped[Array, "prompt ..."]]) -> PyTree:
    """Cuts the axis of prompts into shards and their own prompts."""
    count = shards()
    return _in_shards(jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tree))


def merge_batch(tree: PyTree[Shaped[Array, "shard prompt ..."]]) -> PyTree:
    """The inverse of `split_batch`."""
    return _in_shards(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree))


def permute_batch(
    tree: PyTree[Shaped[Array, "prompt ..."]], order: Int[Array, " prompt"]
) -> PyTree:
    """The prompts in another order, dealt out again."""
    return _in_shards(jax.tree.map(lambda x: x[order], tree))


def _in_shards(tree: PyTree) -> PyTree:
    mesh = _ambient()
    if mesh is None:
        return tree
    batch = NamedSharding(mesh, PartitionSpec(_batch(mesh)))
    put = lambda x: jax.lax.with_sharding_constraint(x, batch)
    return jax.tree.map(put, tree)


class Layout(NamedTuple):
    """Where a weight is used, and where it and its gradient are kept."""

    used: NamedSharding
    kept: NamedSharding


def layout(axes: Axes | None) -> Layout | None:
    """The two places of a weight on the mesh that is set; `None` without one."""
    mesh = _ambient()
    if mesh is None or axes is None:
        return None
    used, kept = (_cut(axes, mesh, table, "") for table in (DECODING, TRAINING))
    return Layout(NamedSharding(mesh, used), NamedSharding(mesh, kept))


def all_gather_weight(weight: Shaped[Array, "..."], axes: Axes) -> Shaped[Array, "..."]:
    """A weight where it is used; its gradient is cut again as it is added up."""
    place = layout(axes)
    if place is None:
        return weight
    put = jax.lax.with_sharding_constraint

    @jax.custom_vjp
    def gather(weight):
        return put(weight, place.used)

    gather.defvjp(
        lambda weight: (put(weight, place.used), None),
        # Added up as it was read: a scatter into parts would gather what it adds.
        lambda _, gradient: (put(put(gradient, place.used), place.kept),),
    )
    return gather(weight)


def replicate(tree: _T) -> _T:
    """One stream's activations, which are not cut; shards of streams stay apart."""
    mesh = _ambient()
    if mesh is None:
        return tree
    put = jax.lax.with_sharding_constraint
    return jax.tree.map(lambda x: put(x, NamedSharding(mesh, PartitionSpec())), tree)


def shard_rows(x: Shaped[Array, "row vocab"]) -> Shaped[Array, "row vocab"]:
    """Rows of logits dealt out over `tensor`, for work that needs all of a row.

    They come cut over the vocabulary, where that can be: each device then sends parts
    of rows, and nobody holds all of them.
    """
    mesh = _ambient()
    if mesh is None or not is_tensor_parallel():
        return x
    put, parts = jax.lax.with_sharding_constraint, mesh.shape["tensor"]
    spec = PartitionSpec(None, None if x.shape[1] % parts else "tensor")
    x = put(x, NamedSharding(mesh, spec))
    rows = PartitionSpec(None if x.shape[0] % parts else "tensor")
    return put(x, NamedSharding(mesh, rows))


def is_tensor_parallel() -> bool:
    """Whether each layer is cut over several devices, `tensor`."""
    mesh = _ambient()
    return mesh is not None and mesh.shape["tensor"] > 1


def is_auto_sharded() -> bool:
    """Whether the compiler cuts what is computed here over several devices.

    A kernel of ours it cannot cut. Inside of a shard nothing is left to be cut but
    layers, over `tensor`.
    """
    mesh = _ambient()
    if mesh is None:
        return False
    return any(mesh.shape[x] > 1 for x in NAMES if x not in mesh.manual_axes)


def platform() -> str:
    """Of the devices that a program is made for: the mesh's, or the default ones."""
    mesh = _ambient()
    device = None if mesh is None else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def _ambient() -> AbstractMesh | None:
    """The mesh that `jax.set_mesh` has set, if it is one of ours."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh if set(NAMES) <= set(mesh.axis_names) else None


def _batch(mesh: AbstractMesh) -> tuple[str, ...]:
    """The axes of the batch that the compiler sees: in a shard there are none."""
    return tuple(name for name in BATCH if name not in mesh.manual_axes)


def _cut(
    axes: Axes, mesh: Mesh | AbstractMesh, table: Table, name: str
) -> PartitionSpec:
    manual = mesh.manual_axes if isinstance(mesh, AbstractMesh) else ()
    parts = []
    for axis, pieces in zip(axes.names, axes.pieces, strict=True):
        rule = table.get(axis or "", Rule(()))
        over = tuple(x for x in rule.over if mesh.shape[x] > 1 and x not in manual)
        count = math.prod(mesh.shape[x] for x in over)
        if pieces % count == 0:
            parts.append(over or None)
        elif rule.replicate_if_indivisible:
            parts.append(None)
        else:
            raise ValueError(
                f"An axis is cut into equal parts. Received `{axis}` of {pieces} for "
                f"the {count} parts of the mesh's {' x '.join(over)}"
                f"{f' ({name})' if name else ''}: choose a size that divides {pieces}."
            )
    return PartitionSpec(*parts)


class _Weight(NamedTuple):
    axes: Axes
    shape: tuple[int, ...]


def _named(tree: PyTree) -> Iterator[tuple[tuple[_Name, ...], _Weight]]:
    """The path of every weight within its policy, and what it is."""
    is_policy = lambda x: isinstance(x, AbstractPolicy)
    for policy in filter(is_policy, jax.tree.leaves(tree, is_leaf=is_policy)):
        arrays = eqx.filter(policy, _is_array)
        leaves, _ = jax.tree_util.tree_flatten_with_path(arrays)
        axes = jax.tree.leaves(
            policy.logical_axes(), is_leaf=lambda x: isinstance(x, Axes)
        )
        for (path, leaf), found in zip(leaves, axes, strict=True):
            names = tuple(_name(key) for key in path)
            yield names, _Weight(found, leaf.shape)


def _name(key) -> _Name:
    return jax.tree_util.keystr((key,), simple=True)


def _is_array(x: object) -> bool:
    return isinstance(x, jax.Array | jax.ShapeDtypeStruct)
