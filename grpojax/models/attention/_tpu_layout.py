"""The memory layout of keys and values on a TPU.

Left to itself the TPU compiler makes columns the outermost axis, where one is quickly
written, and transposes the entire cache for every token.
"""

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Shaped


_LANES = 128  # The innermost axis of an array is padded to a multiple of these.


def constrain_keys(
    keys: Shaped[Array, "*layer kv_head head_dim column"],
) -> Shaped[Array, "*layer kv_head head_dim column"]:
    """Keys with columns as the innermost axis in memory."""
    return _innermost(keys, -1)


def constrain_values(
    values: Shaped[Array, "*layer kv_head column head_dim"],
) -> Shaped[Array, "*layer kv_head column head_dim"]:
    """Values with features innermost, or columns where features do not fill the lanes.

    Padded to the lanes they would take more memory than there is.
    """
    is_narrow = values.shape[-1] % _LANES != 0
    return _innermost(values, -2 if is_narrow else -1)


def _innermost(x: Shaped[Array, "..."], axis: int) -> Shaped[Array, "..."]:
    order = list(range(x.ndim))
    order.append(order.pop(axis))
    layout = Layout(major_to_minor=tuple(order))
    constrain = lambda x: with_layout_constraint(x, layout)
    return jax.lax.platform_dependent(x, tpu=constrain, default=lambda x: x)
