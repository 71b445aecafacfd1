"""How a cache lies in a TPU's memory."""

import dataclasses

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Shaped

from ._matrix import TiledMatrix
from ._weights import KVCache


_LANES = 128  # The innermost axis of an array takes a multiple of so many.


def as_read(cache: KVCache) -> KVCache:
    """The cache, in a TPU's memory as attention reads it.

    Left to itself the TPU compiler has columns outermost, where one is quickly written,
    and transposes the whole cache for every token.
    """
    if isinstance(cache.keys, TiledMatrix):
        return cache  # Of a CPU.
    narrow = cache.values.shape[-1] % _LANES != 0
    return dataclasses.replace(
        cache,
        keys=_innermost(cache.keys, -1),
        # Heads that do not fill the lanes would take more memory than they have.
        values=_innermost(cache.values, -2 if narrow else -1),
    )


def _innermost(x: Shaped[Array, "..."], axis: int) -> Shaped[Array, "..."]:
    order = list(range(x.ndim))
    order.append(order.pop(axis))
    lay = lambda x: with_layout_constraint(x, Layout(major_to_minor=tuple(order)))
    return jax.lax.platform_dependent(x, tpu=lay, default=lambda x: x)
