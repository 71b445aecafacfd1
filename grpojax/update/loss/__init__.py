"""The loss of an update, composed of parts."""

from ._balance import LoadBalance as LoadBalance
from ._correction import (
    Importance as Importance,
    OffPolicySequenceMask as OffPolicySequenceMask,
    TopEntropy as TopEntropy,
)
from ._inputs import (
    Batch as Batch,
    LossInputs as LossInputs,
    LossWeights as LossWeights,
)
from ._objective import Objective as Objective
from ._penalty import (
    absolute as absolute,
    AbstractPenalty as AbstractPenalty,
    Distill as Distill,
    k1 as k1,
    k2 as k2,
    k3 as k3,
    k3_with_k2_gradient as k3_with_k2_gradient,
    KL as KL,
)
from ._ratio import (
    ClampedTokenRatio as ClampedTokenRatio,
    sequence_ratio as sequence_ratio,
    sequence_token_ratio as sequence_token_ratio,
    token_ratio as token_ratio,
)
from ._surrogate import (
    AbstractSurrogate as AbstractSurrogate,
    Cispo as Cispo,
    Clip as Clip,
    Gmpo as Gmpo,
    Reinforce as Reinforce,
    Sapo as Sapo,
    Vespo as Vespo,
)
from ._weight import (
    Constant as Constant,
    nonempty_sequence_mean as nonempty_sequence_mean,
    prompt_mean as prompt_mean,
    sequence_mean as sequence_mean,
    sequence_sum as sequence_sum,
    token_mean as token_mean,
    Total as Total,
)
