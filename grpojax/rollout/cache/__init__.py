"""Keys and values of a rollout: of prompts, and of the slots' completions."""

from ._blocks import block_columns as block_columns
from ._prefill import pad_prompts as pad_prompts, PromptCache as PromptCache
from ._slot_cache import (
    Seen as Seen,
    SlotCache as SlotCache,
    SlotColumns as SlotColumns,
)
