"""Memory that a run needs, estimated without taking a step."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from ... import sharding
from ..._train import TrainStep
from ...policy import AbstractPolicy, empty_cache
from ...rollout import RolloutConfig, SlotColumns
from ...types import accumulation_dtype
from ..distributed.mesh import use
from ..training.fit import Prepared


class Estimate(NamedTuple):
    """Memory and shapes of a run.

    **Fields:**

    - `parameters`: how many parameters are trained.
    - `rows`, `prompt_length`, `completion_length`: the shape of a step's samples.
    - `devices`: over how many the state is placed.
    - `bytes`: of the arrays that a step is known to hold, by name, on each device.
    - `programs`: memory of the step's programs on each device, according to the
        compiler; see `CompiledStep`. They run one after the other.
    - `seconds_compile`: how long tracing and compiling took.
    - `cached`: whether the programs were read from JAX's persistent cache.
    """

    parameters: int
    rows: int
    prompt_length: int
    completion_length: int
    devices: int
    bytes: dict[str, int]
    programs: dict[str, dict[str, int]]
    seconds_compile: float
    cached: bool


def estimate(prepared: Prepared) -> Estimate:
    """Memory estimate of a prepared run of a `TrainStep`, which is compiled.

    **Raises:** `TypeError` for another step.
    """
    step, state, mesh = prepared.step.step, prepared.state, prepared.mesh
    if not isinstance(step, TrainStep):
        raise TypeError(f"estimate needs a `TrainStep`. Received {step!r:.80}.")
    config, env = step.rollout, step.env
    trained = _trained(state.policy)
    # Prompts, rows, and rows that are decoded at a time, on each shard of the batch.
    shards = 1 if mesh is None else math.prod(mesh.shape[x] for x in sharding.BATCH)
    rows = config.prompts * config.group
    slots = (rows if config.slots is None else min(config.slots, rows)) // shards
    prompts = config.prompts // shards
    if slots < rows // shards:
        prompts += slots  # Slots that are refilled copy their prompt's cache.
    with use(mesh):
        compiled = prepared.step.compile()
        horizon, tokens = env.max_completion_length, config.cache_tokens
        tokens = None if tokens is None else tokens // shards
        columns = SlotColumns.of(horizon, slots, tokens)
    decoder = abstract_decoder(config, state.policy, mesh, slots)
    return Estimate(
        parameters=sum(x.size for x in jax.tree.leaves(trained)),
        rows=rows,
        prompt_length=env.max_prompt_length,
        completion_length=env.max_completion_length,
        devices=1 if mesh is None else mesh.size,
        bytes={
            "parameters": device_bytes(state.policy),
            "gradient": device_bytes(trained, wide=True),
            "optimizer": device_bytes(state.opt_state),
            "reference": device_bytes(state.reference),
            "average": device_bytes(state.average),
            "teacher": device_bytes(step.teacher),
            "decoding weights": _decoding_weights(state.policy, decoder, mesh),
            "prompt caches": prompts * _cache(decoder, env.max_prompt_length, mesh),
            "completion caches": slots * _cache(decoder, columns.recent, mesh)
            + (columns.older and _cache(decoder, columns.older, mesh)),
        },
        programs=compiled.bytes,
        seconds_compile=compiled.seconds,
        cached=compiled.cached,
    )


def abstract_decoder(
    config: RolloutConfig, policy: AbstractPolicy, mesh: Mesh | None, slots: int
) -> AbstractPolicy:
    """The shapes of the decoder that a step builds.

    Its layout, and even its tree, depend on the mesh that is set when it is built.
    """
    with use(mesh):
        decoder = lambda policy: config.behavior_policy(policy).for_decoding(slots)
        return eqx.filter_eval_shape(decoder, policy)


def device_bytes(tree: PyTree, *, wide: bool = False) -> int:
    """Bytes of a tree's arrays on one device.

    **Arguments:**

    - `tree`: of arrays, or of their shapes; other leaves are not counted.
    - `wide`: count 16-bit floats as float32, in which gradients are accumulated.
    """

    def one(x: Array | jax.ShapeDtypeStruct) -> int:
        dtype = accumulation_dtype(x.dtype) if wide else x.dtype
        shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
        return math.prod(shape) * dtype.itemsize

    return sum(map(one, filter(_is_shaped, jax.tree.leaves(tree))))


def _is_shaped(x: object) -> bool:
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)


def _trained(policy: AbstractPolicy) -> PyTree:
    """What is trained of a policy, which may be one of shapes."""
    choose = lambda policy: eqx.filter(policy, policy.trainable())
    chosen = eqx.filter_eval_shape(choose, policy)
    is_none = lambda x: x is None
    keep = lambda x, y: None if y is None else x
    return jax.tree.map(keep, policy, chosen, is_leaf=is_none)


def _cache(decoder: AbstractPolicy, columns: int, mesh: Mesh | None) -> int:
    """Bytes of one row's KV cache on a device; heads are sharded where they divide."""
    sizes = {} if mesh is None else mesh.shape
    tensor, expert = sizes.get("tensor", 1), sizes.get("expert", 1)
    cache = eqx.filter_eval_shape(lambda p: empty_cache(p, columns), decoder)

    def shards_of(x: jax.ShapeDtypeStruct) -> int:
        heads = x.shape[1] if x.ndim > 1 else 1
        return next(n for n in (tensor * expert, tensor, 1) if heads % n == 0)

    return sum(
        x.size * x.dtype.itemsize // shards_of(x) for x in jax.tree.leaves(cache)
    )


def _decoding_weights(
    policy: AbstractPolicy, decoder: AbstractPolicy, mesh: Mesh | None
) -> int:
    """Bytes of the sampler's own copy, if it has another dtype or placement."""
    arrays = [x for x in jax.tree.leaves(decoder) if _is_shaped(x)]
    if mesh is None:
        kept = {(x.shape, x.dtype) for x in jax.tree.leaves(policy) if _is_shaped(x)}
        copied = [x for x in arrays if (x.shape, x.dtype) not in kept]
        return sum(x.size * x.dtype.itemsize for x in copied)
    placed = sharding.shardings(decoder, mesh, sharding.DECODING)
    places = zip(arrays, jax.tree.leaves(placed), strict=True)
    return sum(
        math.prod(place.shard_shape(x.shape)) * x.dtype.itemsize for x, place in places
    )


def describe(estimate: Estimate) -> str:
    """An estimate in a few lines."""
    where = f" on each of {estimate.devices} devices" if estimate.devices > 1 else ""
    counted = [f"{name} {readable(x)}" for name, x in estimate.bytes.items() if x > 0]
    programs = {name: x for name, x in estimate.programs.items() if x}
    most = max(map(total, programs.values()), default=None)
    how = "reading it from the cache" if estimate.cached else "compiling it"
    return "\n".join(
        [
            f"shapes {estimate.rows} rows a step: prompts of {estimate.prompt_length} "
            f"tokens at most, completions of {estimate.completion_length}",
            f"params {estimate.parameters:,}",
            f"arrays {', '.join(counted)} (counted{where})",
            *(f"{name:<6} {_line(x)}" for name, x in programs.items()),
            "memory "
            + ("not known" if most is None else f"at most {readable(most)}{where}")
            + " (according to the compiler)",
            f"tracing the step and {how} took {estimate.seconds_compile:.1f} s; "
            "no step was taken and no run was written",
        ]
    )


def total(program: Mapping[str, int]) -> int:
    """The memory that a program needs: what it is given, returns and computes with."""
    kept = program["arguments"] + program["results"] - program["reused"]
    return kept + program["temporary"]


def _line(program: Mapping[str, int]) -> str:
    parts = ", ".join(f"{name} {readable(x)}" for name, x in program.items() if x > 0)
    return f"{parts}: {readable(total(program))}"


def readable(size: int) -> str:
    """A number of bytes with a unit."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} B"
