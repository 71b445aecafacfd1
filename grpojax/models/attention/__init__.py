"""Grouped-query attention, and the keys and values that it reads."""

from ._attend import attend as attend, ATTENTION_OUTPUT as ATTENTION_OUTPUT
from ._block_mask import block_mask as block_mask, BlockMask as BlockMask
from ._cache import (
    check_cache_dtype as check_cache_dtype,
    KVCache as KVCache,
    quantize_cache as quantize_cache,
    write_cache as write_cache,
)
from ._products import capped as capped
from ._source import Source as Source
