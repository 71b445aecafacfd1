"""What a run would need, found out without a step."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Array, PyTree

from ... import sharding
from ...policy import AbstractPolicy, empty_cache
from ..recipe.schema import Rollout
from .fit import Setup


class Estimate(NamedTuple):
    """What a run would need.

    **Fields:**

    - `parameters`: how many numbers are trained.
    - `rows`, `prompt_length`, `completion_length`: the shape of a step's samples.
    - `devices`: how many hold the state.
    - `bytes`: of the arrays that a step is known to hold, by name, on each device.
    - `program`: what the compiler says that the step needs on each device; see
        `CompiledStep`.
    - `seconds_compile`: how long tracing and compiling took.
    """

    parameters: int
    rows: int
    prompt_length: int
    completion_length: int
    devices: int
    bytes: dict[str, int]
    program: dict[str, int]
    seconds_compile: float


def estimate(setup: Setup) -> Estimate:
    """Compiles the step that was prepared, and runs nothing."""
    recipe, env, state = setup.recipe, setup.environments.train, setup.state
    compiled = setup.step.compile()
    trained = eqx.filter(state.policy, state.policy.trainable())
    mesh = mesh_of(state)
    slots = _slots(recipe.rollout, mesh)
    decoding = abstract_decoder(state.policy, mesh, slots)
    return Estimate(
        parameters=sum(x.size for x in jax.tree.leaves(trained)),
        rows=recipe.rollout.prompts * recipe.rollout.group,
        prompt_length=env.max_prompt_length,
        completion_length=env.max_completion_length,
        devices=1 if mesh is None else mesh.size,
        bytes={
            "parameters": device_bytes(state.policy),
            "gradient": device_bytes(trained, wide=True),
            "optimizer": device_bytes(state.opt_state),
            "reference": device_bytes(state.reference),
            "decoding weights": _decoding_weights(state.policy, decoding, mesh),
            **_caches(setup, decoding, mesh),
        },
        program=compiled.bytes,
        seconds_compile=compiled.seconds,
    )


def mesh_of(tree: PyTree) -> Mesh | AbstractMesh | None:
    """The mesh that a tree's arrays are cut over, if there is one."""
    shardings = (x.sharding for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array)))
    meshes = (s.mesh for s in shardings if isinstance(s, NamedSharding))
    return next((mesh for mesh in meshes if mesh.size > 1), None)


def abstract_decoder(
    policy: AbstractPolicy, mesh: Mesh | AbstractMesh | None, slots: int
) -> AbstractPolicy:
    """The shapes of the decoder that a step builds.

    Its layout, and even its tree, depend on the mesh that is set when it is built.
    """
    make = lambda: eqx.filter_eval_shape(lambda p: p.for_decoding(slots), policy)
    if mesh is None:
        return make()
    abstract = mesh if isinstance(mesh, AbstractMesh) else mesh.abstract_mesh
    with jax.sharding.use_abstract_mesh(abstract):
        return make()


def device_bytes(tree: PyTree, *, wide: bool = False) -> int:
    """What a tree's arrays take on one device.

    **Arguments:**

    - `tree`: of arrays; what else it holds is not counted.
    - `wide`: count narrow floats as float32, such as a gradient is added up in.
    """

    def one(x: Array) -> int:
        dtype = jnp.promote_types(x.dtype, jnp.float32) if wide else x.dtype
        return math.prod(x.sharding.shard_shape(x.shape)) * dtype.itemsize

    return sum(map(one, jax.tree.leaves(eqx.filter(tree, eqx.is_array))))


def _caches(
    setup: Setup, decoding: AbstractPolicy, mesh: Mesh | AbstractMesh | None
) -> dict[str, int]:
    """Keys and values while a device decodes its share of the prompts.

    Slots that are refilled hold a copy each of their prompt's.
    """
    recipe, env = setup.recipe.rollout, setup.environments.train
    parts, slots = _parts(mesh), _slots(recipe, mesh)
    rows = recipe.prompts * recipe.group // parts
    tensor = 1 if mesh is None else mesh.shape["tensor"]

    def cache(columns: int) -> int:
        """Of one stream; its heads are cut where they can be."""
        found = jax.tree.leaves(
            eqx.filter_eval_shape(lambda p: empty_cache(p, columns), decoding)
        )
        cut = lambda x: tensor if x.ndim > 1 and x.shape[1] % tensor == 0 else 1
        return sum(x.size * x.dtype.itemsize // cut(x) for x in found)

    prompts = recipe.prompts // parts + (slots if slots < rows else 0)
    return {
        "prompt caches": prompts * cache(env.max_prompt_length),
        "completion caches": slots * cache(env.max_completion_length),
    }


def _parts(mesh: Mesh | AbstractMesh | None) -> int:
    """How many the prompts are dealt out to."""
    return 1 if mesh is None else math.prod(mesh.shape[x] for x in sharding.BATCH)


def _slots(recipe: Rollout, mesh: Mesh | AbstractMesh | None) -> int:
    """How many rows each of them decodes at a time."""
    rows = recipe.prompts * recipe.group
    slots = rows if recipe.slots is None else min(recipe.slots, rows)
    return slots // _parts(mesh)


def _decoding_weights(
    policy: AbstractPolicy, decoding: AbstractPolicy, mesh: Mesh | AbstractMesh | None
) -> int:
    """The sampler's own copy, if it is in another dtype or lies elsewhere."""
    arrays = jax.tree.leaves(eqx.filter(decoding, _is_shape))
    if mesh is None:
        kept = {(x.shape, x.dtype) for x in jax.tree.leaves(policy) if eqx.is_array(x)}
        return sum(
            x.size * x.dtype.itemsize for x in arrays if (x.shape, x.dtype) not in kept
        )
    laid_out = sharding.shardings(decoding, mesh, sharding.DECODING)
    return sum(
        math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize
        for x, place in zip(arrays, jax.tree.leaves(laid_out), strict=True)
    )


def _is_shape(x: object) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def describe(estimate: Estimate) -> str:
    """An estimate in a few lines."""
    listed: Callable[[dict[str, int]], str] = lambda sizes: ", ".join(
        f"{name} {readable(size)}" for name, size in sizes.items() if size > 0
    )
    where = f" on each of {estimate.devices} devices" if estimate.devices > 1 else ""
    return "\n".join(
        [
            f"shapes {estimate.rows} rows a step: prompts of {estimate.prompt_length} "
            f"tokens at most, completions of {estimate.completion_length}",
            f"params {estimate.parameters:,}",
            f"memory {listed(estimate.bytes)} (counted{where})",
            f"step   {listed(estimate.program) or 'not known'} (the compiler's word"
            f"{where})",
            f"compiled the step in {estimate.seconds_compile:.1f} s; no step was taken "
            "and nothing was written",
        ]
    )


def readable(size: int) -> str:
    """A number of bytes for people."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} B"
