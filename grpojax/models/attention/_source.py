"""Keys and values that a chunk attends to."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ...sharding import spmd
from ..matrix import TiledMatrix
from ._block_mask import BlockMask
from ._cache import columns_of, KVCache, slice_columns


class Source(NamedTuple):
    """Keys and values, and the mask of their columns.

    **Fields:**

    - `cache`: keys and values of one layer.
    - `visible`: the mask.
    - `layer`: which layer's, where `cache` has a leading axis of layers: only the
        blocks that are visible are read out of it.
    - `pages`: numbers of the blocks of columns, where `cache` has an axis of streams,
        behind that of layers: only those are read out of it.
    """

    cache: KVCache
    visible: BlockMask
    layer: Int[Array, ""] | None = None
    pages: Int[Array, " page"] | None = None

    @property
    def is_exact(self) -> bool:
        """Whether it has gradients: not quantized, tiled or stacked by a decoder."""
        is_stored = isinstance(self.cache.keys, TiledMatrix) or self.layer is not None
        is_stored |= self.pages is not None
        return self.cache.key_scale is None and not is_stored

    @property
    def exact(self) -> tuple[Array, Array]:
        """Keys and values, if they are exact."""
        return _arrays(self.cache)

    def exact_block(self, start: Int[Array, ""]) -> tuple[Array, Array]:
        """Keys and values of a block of columns, if they are exact."""
        return _arrays(self.block(start))

    def all(self) -> KVCache:
        """All columns, which are one block if they are in pages."""
        if self.pages is not None:
            return self.block(jnp.zeros((), jnp.int32))
        if self.layer is None:
            return self.cache
        at = lambda x: jax.lax.dynamic_index_in_dim(x, self.layer, keepdims=False)
        return jax.tree.map(at, self.cache)

    def block(self, start: Int[Array, ""]) -> KVCache:
        """The block of columns that begins at `start`."""
        width = self.visible.width
        place = () if self.layer is None else (self.layer,)
        if self.pages is not None:
            blocks = columns_of(self.cache) // width
            page = spmd.replicate(self.pages[start // width])
            stream, block = jnp.divmod(page, blocks)
            return slice_columns(self.cache, block * width, width, (*place, stream))
        if width == self.visible.columns:
            return self.all()
        return slice_columns(self.cache, start, width, place)


def _arrays(cache: KVCache) -> tuple[Array, Array]:
    assert not isinstance(cache.keys, TiledMatrix)
    return cache.keys, cache.values
