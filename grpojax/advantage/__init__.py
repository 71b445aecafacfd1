"""Phase 3: advantage."""

from ._estimators import (
    Advantages as Advantages,
    batch_normalized as batch_normalized,
    group_centered as group_centered,
    group_normalized as group_normalized,
)
from ._select import everything as everything, informative as informative
