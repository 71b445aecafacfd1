"""The arrays of a state: by name, to be written, and back in their places."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import orbax.checkpoint as ocp

from ...types import TrainState
from ..io.fingerprint import fingerprint


def arrays_of(state: TrainState) -> dict[str, jax.Array | np.ndarray]:
    """The arrays of a state by their paths, such as `policy/layers/0/weight`.

    All of them but those of the policy that are not trained: they never change, and
    are in the model's own files.
    """
    trained = eqx.filter(state.policy, state.policy.trainable())
    state = eqx.tree_at(lambda state: state.policy, state, trained)
    return {
        _name(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if isinstance(leaf, jax.Array | np.ndarray)
    }


def frozen_of(state: TrainState) -> str | None:
    """What tells the arrays apart that `arrays_of` leaves out, if there are any."""
    frozen = eqx.filter(state.policy, state.policy.trainable(), inverse=True)
    arrays = eqx.filter(frozen, eqx.is_array)
    return fingerprint(arrays) if jax.tree.leaves(arrays) else None


def with_arrays(
    like: TrainState, values: Mapping[str, jax.Array | np.ndarray]
) -> TrainState:
    """A state with other values in its arrays; those without elements stay.

    **Arguments:**

    - `like`: the state.
    - `values`: by path, where `places` asked for them.
    """
    names = arrays_of(like)

    def replace(path: jax.tree_util.KeyPath, leaf: object) -> object:
        name = _name(path)
        if name not in names or not names[name].size:
            return leaf
        like, value = names[name], values[name]
        if isinstance(like, np.ndarray):
            return value
        value = jnp.asarray(value)
        if not _is_key(like):
            return value
        return jr.wrap_key_data(value, impl=jr.key_impl(like))

    return jax.tree_util.tree_map_with_path(replace, like)


def places(like: TrainState) -> dict[str, ocp.RestoreArgs]:
    """Where every array that has elements is to be read to, for orbax.

    On a mesh each device is given its part. What no device has been chosen for is read
    to the host, so that none is chosen for it here.
    """

    def place(array: jax.Array | np.ndarray) -> ocp.RestoreArgs:
        if _is_key(array):
            array = jr.key_data(array)
        if isinstance(array, np.ndarray) or not array.committed:
            return ocp.RestoreArgs(restore_type=np.ndarray)
        return ocp.ArrayRestoreArgs(sharding=array.sharding)

    return {name: place(array) for name, array in arrays_of(like).items() if array.size}


def describe(array: jax.Array | np.ndarray) -> str:
    """Its dtype and shape, such as `float32[2,3]`."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def detached(array: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """An array that orbax may take its time with; of a key, its numbers.

    orbax copies what lies on an accelerator to the host before it returns. On a CPU
    what it takes for that copy is the device's memory, seen through.
    """
    if isinstance(array, np.ndarray):
        return array.copy()
    array = jr.key_data(array) if _is_key(array) else array
    on_host = all(device.platform == "cpu" for device in array.sharding.device_set)
    return jnp.copy(array) if on_host else array


def check_fits(
    step: str, saved: Mapping[str, str], arrays: Mapping[str, jax.Array | np.ndarray]
) -> None:
    """Refuses a checkpoint of another state.

    **Arguments:**

    - `step`: the checkpoint's.
    - `saved`: what `describe` said of its arrays.
    - `arrays`: those of the state that it is read for.

    **Raises:** `ValueError` that names the first array that differs.
    """
    here = {name: describe(array) for name, array in arrays.items()}
    for name in [*here, *saved]:
        if saved.get(name) != here.get(name):
            raise ValueError(
                "A checkpoint fits the model, optimizer and reference that it was "
                f"saved from. In that of step {step}, `{name}` is "
                f"{saved.get(name, 'missing')}; in this run it is "
                f"{here.get(name, 'missing')}: this is the wrong model for the "
                "checkpoint, or its optimizer or reference changed. Continue with the "
                "recipe that the run began with."
            )


def _name(path: jax.tree_util.KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(array: jax.Array | np.ndarray) -> bool:
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
