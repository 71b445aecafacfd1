"""Policy-gradient algorithms, each composed of an advantage, a selection and a loss.

No critic, no replay: the only baselines are the group and the batch. Where the ratio
ρ = π / π_old is exactly 1, as in the first update, all of them have the gradient of
Σ weight · A · log π. They differ in the advantage A, in the weight, and in how the
loss depends on ρ in later updates.
"""

from ._algorithm import Algorithm as Algorithm
from ._reinforce import (
    opo as opo,
    reinforce as reinforce,
    reinforce_plus_plus as reinforce_plus_plus,
    rloo as rloo,
)
from ._sequence_ratio import (
    gmpo as gmpo,
    gspo as gspo,
    luspo as luspo,
    vespo as vespo,
)
from ._token_ratio import (
    bnpo as bnpo,
    cispo as cispo,
    dapo as dapo,
    dr_grpo as dr_grpo,
    grpo as grpo,
    sapo as sapo,
)
