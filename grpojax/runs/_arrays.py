"""The arrays of a state: by name, on the host, and back in their places."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ..types import TrainState
from .fingerprint import fingerprint


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


def with_arrays(like: TrainState, values: Mapping[str, np.ndarray]) -> TrainState:
    """A state with other values in its arrays; those without elements stay."""
    names = arrays_of(like)

    def replace(path: jax.tree_util.KeyPath, leaf: object) -> object:
        name = _name(path)
        if name not in names or not names[name].size:
            return leaf
        return _to_device(values[name], names[name])

    return jax.tree_util.tree_map_with_path(replace, like)


def describe(array: jax.Array | np.ndarray) -> str:
    """Its dtype and shape, such as `float32[2,3]`."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """A copy that does not change with the array's memory; of a key, its numbers."""
    value = np.asarray(jr.key_data(array) if _is_key(array) else array)
    # On a CPU that is the device's memory, seen through.
    return value if value.flags.owndata else value.copy()


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


def _to_device(value: np.ndarray, like: jax.Array | np.ndarray):
    if isinstance(like, np.ndarray):
        return value
    if _is_key(like):
        return jr.wrap_key_data(jnp.asarray(value), impl=jr.key_impl(like))
    return jax.device_put(value, like.sharding if like.committed else None)
