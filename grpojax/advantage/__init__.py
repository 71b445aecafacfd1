"""Phase 3: advantage."""

from ._estimators import (
    batch_normalized as batch_normalized,
    batch_scaled as batch_scaled,
    best_of_group as best_of_group,
    dapo_mix as dapo_mix,
    gdpo as gdpo,
    group_centered as group_centered,
    group_normalized as group_normalized,
    leave_one_out as leave_one_out,
)
from ._group_id import by_group_id as by_group_id
from ._lengths import opo as opo, reinforce_plus_plus as reinforce_plus_plus
from ._select import (
    everything as everything,
    informative as informative,
    most_informative as most_informative,
    take_informative as take_informative,
)
from ._statistics import Advantages as Advantages
