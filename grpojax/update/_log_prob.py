"""Teacher forcing: log-probs and entropies of completions, in chunks of positions."""

import functools as ft

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..policy import (
    AbstractPolicy,
    completion_hidden,
    LOG_PROB_RESIDUALS,
    token_log_prob,
)
from ..sharding import spmd
from ..types import FloatLike, Prompt


LogProbs = tuple[Float[Array, "prompt group time"], ...]
"""Log-probabilities and entropies, nats; and the balance of experts, if asked for."""

# Elements of the largest block of logits that exists at a time, on each platform: in
# float32 32 MiB on a CPU, which should fit its caches; 2 GiB on a GPU, which reads all
# of the head, and writes its gradient, for each of them.
_LOGITS_BLOCK = {"cpu": 2**23, "gpu": 2**29, "tpu": 2**28}
_ALIGNMENT = 128  # Positions: a multiple of what matrix units take at a time.


def log_probs(
    policy: AbstractPolicy,
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    *,
    temperature: FloatLike = 1.0,
    vocab_size: int | None = None,
    chunk: int | None = None,
) -> LogProbs:
    """Teacher-forced log-probs and entropies of a batch of completions.

    Each prompt is run once for its group. The update packs rows instead
    (`update.packed`): this is the plain form, of every token, that it is tested
    against.

    **Arguments:**

    - `policy`: computes the logits.
    - `prompt`, `tokens`: as in `Trajectory`.
    - `temperature`, `vocab_size`: as in `Trajectory`.
    - `chunk`: as in `UpdateConfig`.

    **Returns:** log-probabilities and entropies, nats.
    """
    hidden = jax.vmap(ft.partial(completion_hidden, policy))(prompt, tokens)
    hidden = hidden.reshape(tokens.size, hidden.shape[-1])
    found = token_log_probs(
        policy,
        hidden,
        tokens.reshape(-1),
        temperature=temperature,
        vocab_size=vocab_size,
        chunk=chunk,
    )
    return jax.tree.map(lambda x: x.reshape(tokens.shape), found)


def token_log_probs(
    policy: AbstractPolicy,
    hidden: Float[Array, "token hidden"],
    targets: Int[Array, " token"],
    *,
    temperature: FloatLike = 1.0,
    vocab_size: int | None = None,
    chunk: int | None = None,
) -> tuple[Float[Array, " token"], Float[Array, " token"]]:
    """Log-probs and entropies of tokens, given the hidden states that predict them.

    The vocabulary projection is computed in chunks; where there are several, they are
    rematerialized in the backward pass: no array of all tokens' logits ever exists.

    **Arguments:**

    - `policy`: computes the logits.
    - `hidden`: hidden states.
    - `targets`: token ids.
    - `temperature`, `vocab_size`: as in `Trajectory`.
    - `chunk`: as in `UpdateConfig`.
    """
    count = targets.shape[0]
    if chunk is None:
        elements = _LOGITS_BLOCK.get(spmd.platform(), 2**23)
        chunk = max(elements // policy.vocab_size, 1)
    blocks = -(-count // min(chunk, count))
    # Blocks of equal size, the smallest that needs no more of them.
    smallest = -(-count // blocks)
    chunk = min(chunk, -(-smallest // _ALIGNMENT) * _ALIGNMENT)

    def to_blocks(x):
        padding = [(0, blocks * chunk - count)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(blocks, chunk, *x.shape[1:])

    def block(operands):
        hidden, targets = operands
        logits = policy.logits(hidden)
        return token_log_prob(logits, targets, temperature, vocab_size)

    if blocks > 1:
        # A single block is small enough to be kept for the backward pass.
        saved = jax.checkpoint_policies.save_only_these_names(LOG_PROB_RESIDUALS)
        block = jax.checkpoint(block, policy=saved)
    found = jax.lax.map(block, (to_blocks(hidden), to_blocks(targets)))
    return jax.tree.map(lambda x: x.reshape(-1)[:count], found)
