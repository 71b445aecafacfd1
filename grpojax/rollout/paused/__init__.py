"""Rollouts that pause, and rows that go on in the next step."""

from ._insert import (
    insert as insert,
    Progress as Progress,
    progress as progress,
    release as release,
)
from ._partial import (
    complete_partial as complete_partial,
    Drawn as Drawn,
    PartialRows as PartialRows,
)
from ._pause import (
    advance as advance,
    answer as answer,
    Answers as Answers,
    finish as finish,
    Rollout as Rollout,
    start as start,
)
