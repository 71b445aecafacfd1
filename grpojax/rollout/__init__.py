"""Phase 1, rollout: (policy, environment, key) -> Trajectory."""

from ._config import RolloutConfig as RolloutConfig
from ._generate import (
    complete as complete,
    draw as draw,
    generate as generate,
    generate_partial as generate_partial,
)
from ._row_sampler import RowSampler as RowSampler
from ._sample import (
    AbstractSampler as AbstractSampler,
    Categorical as Categorical,
    Greedy as Greedy,
    Truncated as Truncated,
)
from ._state import Until as Until
from ._turns import last_turn as last_turn
from .cache import SlotColumns as SlotColumns
from .paused import (
    advance as advance,
    answer as answer,
    Answers as Answers,
    Drawn as Drawn,
    finish as finish,
    insert as insert,
    PartialRows as PartialRows,
    Progress as Progress,
    progress as progress,
    release as release,
    Rollout as Rollout,
    start as start,
)
