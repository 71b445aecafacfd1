"""Phase 1, rollout: (policy, environment, key) -> Trajectory."""

from ._config import RolloutConfig as RolloutConfig
from ._generate import complete as complete, generate as generate
from ._sample import (
    AbstractSampler as AbstractSampler,
    Categorical as Categorical,
    Greedy as Greedy,
    Truncated as Truncated,
)
from ._slot_cache import SlotColumns as SlotColumns
