"""Log-probs and gradients in microbatches of packed tokens.

Memory follows the size of a microbatch, and compute the number of tokens, whatever the
horizon and the width of the prompts:

- prompts are run once, for all their completions, in chunks of that size; their keys
  and values are the context of every completion;
- a row that is longer than a microbatch is run in chunks, each of which attends to the
  keys and values of the earlier ones. Its gradient goes through the chunks in reverse
  order, and runs all but the last one twice: once for their keys and values, once for
  their gradient.
"""

from ._gradient import packed_gradient as packed_gradient
from ._packing import balance_tokens as balance_tokens
from ._rows import pack_rows as pack_rows
from ._score import (
    expert_shares as expert_shares,
    masked_log_probs as masked_log_probs,
)
