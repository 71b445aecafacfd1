"""Phase 4, update: (policy, Trajectory, Advantages) -> policy'."""

from ._config import UpdateConfig as UpdateConfig
from ._improve import improve as improve, Reference as Reference
from ._inspect import (
    inspect as inspect,
    Inspection as Inspection,
    PromptInspection as PromptInspection,
    RowInspection as RowInspection,
)
from ._judge import FrozenJudge as FrozenJudge
from ._kl_reward import KLReward as KLReward
from ._log_prob import log_probs as log_probs
from ._optimizers import (
    stochastic_round as stochastic_round,
    stochastic_rounding as stochastic_rounding,
    with_learning_rate as with_learning_rate,
)
from .loss import (
    absolute as absolute,
    AbstractPenalty as AbstractPenalty,
    AbstractSurrogate as AbstractSurrogate,
    Batch as Batch,
    Cispo as Cispo,
    ClampedTokenRatio as ClampedTokenRatio,
    Clip as Clip,
    Constant as Constant,
    Distill as Distill,
    Gmpo as Gmpo,
    Importance as Importance,
    k1 as k1,
    k2 as k2,
    k3 as k3,
    k3_with_k2_gradient as k3_with_k2_gradient,
    KL as KL,
    LoadBalance as LoadBalance,
    LossInputs as LossInputs,
    LossWeights as LossWeights,
    nonempty_sequence_mean as nonempty_sequence_mean,
    Objective as Objective,
    OffPolicySequenceMask as OffPolicySequenceMask,
    prompt_mean as prompt_mean,
    Reinforce as Reinforce,
    Sapo as Sapo,
    sequence_mean as sequence_mean,
    sequence_ratio as sequence_ratio,
    sequence_sum as sequence_sum,
    sequence_token_ratio as sequence_token_ratio,
    token_mean as token_mean,
    token_ratio as token_ratio,
    TopEntropy as TopEntropy,
    Total as Total,
    Vespo as Vespo,
)
