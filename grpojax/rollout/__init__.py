"""Phase 1, rollout: (policy, environment, key) -> Trajectory."""

from ._config import RolloutConfig as RolloutConfig
from ._generate import complete as complete, generate as generate
from ._pause import (
    advance as advance,
    finish as finish,
    Rollout as Rollout,
    start as start,
)
from ._sample import (
    AbstractSampler as AbstractSampler,
    Categorical as Categorical,
    Greedy as Greedy,
    Truncated as Truncated,
)
from ._state import Until as Until
from .cache import SlotColumns as SlotColumns
