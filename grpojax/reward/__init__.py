"""Phase 2: reward."""

from ._shaping import (
    clip as clip,
    drop_truncated as drop_truncated,
    exclude_truncated as exclude_truncated,
    zero_truncated as zero_truncated,
)
from ._weighted import (
    chain as chain,
    RewardFn as RewardFn,
    Shaping as Shaping,
    weighted_sum as weighted_sum,
)
