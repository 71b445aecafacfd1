"""Statistics over evaluations and seeds: what changed, and how certain that is."""

from .changes import (
    Change as Change,
    Changes as Changes,
    measure_changes as measure_changes,
)
from .intervals import (
    Interval as Interval,
    mean_interval as mean_interval,
    welch as welch,
)
from .seeds import (
    ConfigGroup as ConfigGroup,
    group_by_config as group_by_config,
    run_labels as run_labels,
)
