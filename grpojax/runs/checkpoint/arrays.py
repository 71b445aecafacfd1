"""The arrays of a train state, by path, as Orbax writes and restores them."""

from collections.abc import Mapping
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import orbax.checkpoint as ocp

from ...types import TrainState
from ..io.fingerprint import fingerprint


ArrayLike = jax.Array | np.ndarray


def arrays_of(state: TrainState) -> dict[str, ArrayLike]:
    """The arrays of a state by their paths, such as `policy/layers/query`.

    The frozen weights of the policy are left out: they never change, and are in the
    model's own files.
    """
    trained = eqx.filter(state.policy, state.policy.trainable())
    state = eqx.tree_at(lambda state: state.policy, state, trained)
    return {
        _name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if isinstance(leaf, jax.Array | np.ndarray)
    }


def frozen_fingerprint(state: TrainState) -> str | None:
    """A fingerprint of the policy's frozen weights; `None` if all are trained."""
    frozen = eqx.filter(state.policy, state.policy.trainable(), inverse=True)
    arrays = eqx.filter(frozen, eqx.is_array)
    return fingerprint(arrays) if jax.tree.leaves(arrays) else None


def check_frozen(step: str, saved: object, state: TrainState) -> None:
    """Checks that a checkpoint was saved over the frozen weights of a state.

    **Raises:** `ValueError` with the checkpoint's step.
    """
    if saved != frozen_fingerprint(state):
        raise ValueError(
            "A checkpoint fits the frozen weights that its state was trained on. "
            f"Those of step {step} are not this run's: restore the model that the "
            "run was started with."
        )


def donation_safe_copy(array: ArrayLike) -> ArrayLike:
    """An array that Orbax may read while the state's memory is donated; a key's data.

    Orbax copies an accelerator's array to the host before its save returns. On the CPU
    that copy is a view of the array's memory.
    """
    array = _data(array)
    if isinstance(array, np.ndarray):
        return array.copy()
    on_host = all(device.platform == "cpu" for device in array.sharding.device_set)
    return jnp.copy(array) if on_host else array


def describe(array: ArrayLike) -> str:
    """An array's dtype and shape, such as `float32[2,3]`."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def check_readable(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Opens what Orbax has written; `ValueError` unless all arrays are there."""
    handler = ocp.PyTreeCheckpointHandler()
    found = handler.metadata(path.absolute()).tree  # pyright: ignore[reportArgumentType]
    readable = {name: tuple(array.shape) for name, array in found.items()}
    if readable != shapes:
        count = len(readable.items() & shapes.items())
        raise ValueError(f"of {len(shapes)} arrays, {count} can be read back")


def restore(path: Path, saved: Mapping[str, str], like: TrainState) -> TrainState:
    """A state with the arrays that Orbax has written; those without elements are kept.

    **Arguments:**

    - `path`: the directory that was passed to Orbax, in that of a checkpoint.
    - `saved`: what `describe` returned for the arrays that were written, by path.
    - `like`: as in `Checkpoints.restore`.

    **Raises:** `ValueError` that names the first array that does not fit.
    """
    arrays = arrays_of(like)
    _check_fits(path.parent.name, saved, arrays)
    arrays = {name: array for name, array in arrays.items() if array.size}
    values = _read(path, {name: x for name, x in arrays.items() if name in saved})
    _fill_derived(values, arrays)
    return _with_values(like, arrays, values)


def restore_policy(
    path: Path, saved: Mapping[str, str], like: TrainState
) -> TrainState:
    """A state with the policy alone that Orbax has written; see `restore`.

    **Arguments:**

    - `like`: a state with such a policy; its other arrays are kept.
    """
    in_policy = lambda named: {
        x: y for x, y in named.items() if x.startswith("policy/")
    }
    arrays = in_policy(arrays_of(like))
    _check_fits(path.parent.name, in_policy(saved), arrays)
    arrays = {name: array for name, array in arrays.items() if array.size}
    return _with_values(like, arrays, _read(path, arrays))


def _read(path: Path, arrays: Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """The arrays of these names that Orbax has written, placed like these."""
    args = {name: _restore_args(array) for name, array in arrays.items()}
    wanted = ocp.args.PyTreeRestore(
        item=dict(arrays), restore_args=args, partial_restore=True
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        return dict(orbax.restore(path.absolute(), args=wanted))


def _with_values(
    like: TrainState,
    arrays: Mapping[str, ArrayLike],
    values: Mapping[str, ArrayLike],
) -> TrainState:
    """The state with other values of these arrays."""

    def replace(path: jax.tree_util.KeyPath, leaf: object) -> object:
        name = _name(path)
        if name not in arrays:
            return leaf
        array, value = arrays[name], values[name]
        if isinstance(array, np.ndarray):
            return value
        if _is_key(array):
            return jr.wrap_key_data(jnp.asarray(value), impl=jr.key_impl(array))
        return jnp.asarray(value)

    return jax.tree_util.tree_map_with_path(replace, like)


def _restore_args(array: ArrayLike) -> ocp.RestoreArgs:
    """A committed array is restored with its sharding: each device reads its shards.

    An uncommitted one is restored to the host, so that it stays uncommitted.
    """
    array = _data(array)
    if isinstance(array, np.ndarray) or not array.committed:
        return ocp.RestoreArgs(restore_type=np.ndarray)
    return ocp.ArrayRestoreArgs(sharding=array.sharding)


def _derived(arrays: Mapping[str, ArrayLike]) -> set[str]:
    """The paths of recorded learning rates, and of the counts beside them.

    An optimizer records them for metrics only; older checkpoints lack them.
    """
    rates = [name for name in arrays if name.endswith("/learning_rate")]
    counts = {name.removesuffix("learning_rate") + "updates" for name in rates}
    return {*rates, *(counts & arrays.keys())}


def _fill_derived(values: dict[str, ArrayLike], like: Mapping[str, ArrayLike]) -> None:
    """Adds what an older checkpoint lacks to the restored values.

    The rate, which the next update computes again, is the state's; the number of
    updates is a count of the optimizer.
    """
    for name in _derived(like) - values.keys():
        counts = [
            value
            for other, value in values.items()
            if other.endswith("/count") and describe(value) == describe(like[name])
        ]
        is_count = name.endswith("/updates") and counts
        # A copy: the memory of a state's arrays is donated, of each once.
        values[name] = counts[0].copy() if is_count else like[name]


def _check_fits(
    step: str, saved: Mapping[str, str], arrays: Mapping[str, ArrayLike]
) -> None:
    """Checks that a checkpoint was saved from a state of the same arrays."""
    expected = {name: describe(array) for name, array in arrays.items()}
    optional = _derived(arrays).difference(saved)
    for name in [*expected, *saved]:
        if name not in optional and saved.get(name) != expected.get(name):
            raise ValueError(
                "A checkpoint fits the model, optimizer, reference and curriculum that "
                f"it was saved from. In that of step {step}, `{name}` is "
                f"{saved.get(name, 'missing')}; in this run it is "
                f"{expected.get(name, 'missing')}: this is the wrong model for the "
                "checkpoint, or one of the others changed. Resume with the "
                "configuration that the run was started with."
            )


def _name(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(array: ArrayLike) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _data(array: ArrayLike) -> ArrayLike:
    return jr.key_data(array) if _is_key(array) else array
