"""Phase 3, advantage: estimators (Rewards -> Advantages) and row selection."""

from ._estimators import (
    BatchNormalized as BatchNormalized,
    BatchScaled as BatchScaled,
    BestOfGroup as BestOfGroup,
    DapoMix as DapoMix,
    Gdpo as Gdpo,
    group_centered as group_centered,
    GroupNormalized as GroupNormalized,
    leave_one_out as leave_one_out,
    zero as zero,
)
from ._group_id import ByGroupId as ByGroupId
from ._lengths import opo as opo, ReinforcePlusPlus as ReinforcePlusPlus
from ._select import (
    keep_all as keep_all,
    nonzero_variance as nonzero_variance,
    NonzeroVariancePrompts as NonzeroVariancePrompts,
    take_nonzero_variance as take_nonzero_variance,
)
from ._statistics import Advantages as Advantages
from ._turns import ByTurn as ByTurn, TurnNormalized as TurnNormalized
