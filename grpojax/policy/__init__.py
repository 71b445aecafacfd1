"""The policy contract, and functions of any policy that keeps it.

A policy is an Equinox module for ONE sequence; batches are its caller's `vmap`.
"""

from ._contract import (
    AbstractPolicy as AbstractPolicy,
    ExpertUse as ExpertUse,
    Past as Past,
)
from ._hidden import (
    completion_hidden as completion_hidden,
    empty_cache as empty_cache,
    prefill as prefill,
)
from ._score import as_prompt as as_prompt, log_prob as log_prob, logits as logits
from ._token_log_prob import (
    LOG_PROB_RESIDUALS as LOG_PROB_RESIDUALS,
    mask_vocabulary as mask_vocabulary,
    token_log_prob as token_log_prob,
)
