"""Phase 2, reward: reward functions (Trajectory -> Rewards) and their shapings."""

from ..calls import (
    Calls as Calls,
    InProcess as InProcess,
    InThread as InThread,
    PermanentError as PermanentError,
)
from ._length import Cosine as Cosine, SoftOverlong as SoftOverlong
from ._repetition import Repetition as Repetition
from ._shaping import (
    ClipTotal as ClipTotal,
    drop_truncated as drop_truncated,
    exclude_truncated as exclude_truncated,
    zero_truncated as zero_truncated,
)
from ._turns import DiscountTurns as DiscountTurns
from ._weighted import (
    Chain as Chain,
    checked as checked,
    RewardFn as RewardFn,
    Shaping as Shaping,
    WeightedSum as WeightedSum,
)
from .functions import (
    CodeTests as CodeTests,
    ExactMatch as ExactMatch,
    JSONSchema as JSONSchema,
    Judge as Judge,
    math_verify as math_verify,
    ReasoningGym as ReasoningGym,
    Regex as Regex,
    Verifiers as Verifiers,
)
from .host import HostReward as HostReward, text_of as text_of
