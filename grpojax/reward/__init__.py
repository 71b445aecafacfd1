"""Phase 2, reward: reward functions (Trajectory -> Rewards) and their shapings."""

from ._host import HostReward as HostReward
from ._length import Cosine as Cosine, SoftOverlong as SoftOverlong
from ._limit import InProcess as InProcess, InThread as InThread
from ._math import math_verify as math_verify
from ._repetition import Repetition as Repetition
from ._shaping import (
    ClipTotal as ClipTotal,
    drop_truncated as drop_truncated,
    exclude_truncated as exclude_truncated,
    zero_truncated as zero_truncated,
)
from ._weighted import (
    Chain as Chain,
    checked as checked,
    RewardFn as RewardFn,
    Shaping as Shaping,
    WeightedSum as WeightedSum,
)
