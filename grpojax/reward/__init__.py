"""Phase 2: reward."""

from ._host import host_reward as host_reward
from ._length import cosine as cosine, soft_overlong as soft_overlong
from ._limit import in_process as in_process, in_thread as in_thread
from ._math import math_verify as math_verify
from ._repetition import repetition as repetition
from ._shaping import (
    clip as clip,
    drop_truncated as drop_truncated,
    exclude_truncated as exclude_truncated,
    zero_truncated as zero_truncated,
)
from ._weighted import (
    chain as chain,
    checked as checked,
    RewardFn as RewardFn,
    Shaping as Shaping,
    weighted_sum as weighted_sum,
)
