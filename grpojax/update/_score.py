"""Teacher forcing: what a policy thinks of completions, in chunks and in parts."""

import functools as ft
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ..policy import (
    AbstractPolicy,
    completion_hidden,
    LOG_PROB_RESIDUALS,
    token_log_prob,
)
from ..sharding import spmd
from ..types import Prompt
from ._surrogate import Number


Scored = tuple[Float[Array, "prompt group time"], Float[Array, "prompt group time"]]
"""Log-probabilities and entropies."""

# Elements of the largest block of logits that exists at a time, on each platform: in
# float32 32 MiB on a CPU, whose caches it should not leave; 2 GiB on a GPU, which reads
# all of the head, and writes its gradient, for each of them.
_LOGITS_BLOCK = {"cpu": 2**23, "gpu": 2**29, "tpu": 2**28}
_ROUND = 128  # Positions: a multiple of what matrix units take at a time.


def score(
    policy: AbstractPolicy,
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    *,
    context: PyTree = None,
    position: Int[Array, "prompt group time"] | None = None,
    temperature: Number = 1.0,
    chunk: int | None = None,
) -> Scored:
    """Teacher-forced log-probabilities and entropies of a batch of completions.

    Each prompt is run once for its group, and the vocabulary projection is computed in
    chunks; where there are several, they are recomputed in the backward pass: no array
    of `prompt · group · time · vocab` entries ever exists.

    **Arguments:**

    - `policy`: the policy that scores.
    - `prompt`, `tokens`: as in `Trajectory`.
    - `context`, `position`: as in `completion_hidden`, for each prompt.
    - `temperature`: divides the logits.
    - `chunk`: positions projected at a time; by default 2²³ / vocab on a CPU, 2²⁸ on a
        TPU and 2²⁹ on a GPU.

    **Returns:** log-probabilities and entropies, nats.
    """
    hidden = jax.vmap(ft.partial(completion_hidden, policy))(
        prompt, tokens, context, position
    )
    count = tokens.size
    if chunk is None:
        elements = _LOGITS_BLOCK.get(spmd.platform(), 2**23)
        chunk = max(elements // policy.vocab_size, 1)
    blocks = -(-count // min(chunk, count))
    # As many blocks, of one size, and the last as full as can be.
    least = -(-count // blocks)
    chunk = min(chunk, -(-least // _ROUND) * _ROUND)

    def cut(x):
        x = x.reshape(count, *x.shape[3:])
        padding = [(0, blocks * chunk - count)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(blocks, chunk, *x.shape[1:])

    def block(operands):
        hidden, tokens = operands
        return token_log_prob(policy.logits(hidden), tokens, temperature)

    if blocks > 1:
        # A single one is small enough to be kept for the backward pass.
        kept = jax.checkpoint_policies.save_only_these_names(LOG_PROB_RESIDUALS)
        block = jax.checkpoint(block, policy=kept)
    scores = jax.lax.map(block, (cut(hidden), cut(tokens)))
    whole = lambda x: x.reshape(-1)[:count].reshape(tokens.shape)
    return jax.tree.map(whole, scores)


def split(
    parts: int, prompt: Prompt, rows: PyTree[Array, " T"]
) -> tuple[Prompt, PyTree[Array, " T"]]:
    """Cuts prompts, and `[prompt group ...]` rows, into parts on a new leading axis.

    Part `i` takes every `parts`-th prompt, so that a batch whose prompts are sharded
    over devices stays sharded the same way; when there are more parts than prompts, the
    members of a group are dealt out likewise.
    """
    by_prompt = math.gcd(parts, prompt.length.shape[0])
    by_group = parts // by_prompt

    def deal(x, axis, hands):
        shape = (*x.shape[:axis], x.shape[axis] // hands, hands, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis + 1, 0)

    def deal_rows(x):
        dealt = deal(deal(x, 0, by_prompt), 2, by_group)
        return jnp.moveaxis(dealt, 1, 0).reshape(parts, *dealt.shape[2:])

    shared = lambda x: jnp.repeat(deal(x, 0, by_prompt), by_group, axis=0)
    return jax.tree.map(shared, prompt), jax.tree.map(deal_rows, rows)


def join(parts: Array) -> Array:
    """The inverse of `split` for rows, when no group was dealt out."""
    x = jnp.moveaxis(parts, 0, 1)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def streams_of(parts: int, group: int) -> tuple[int, int]:
    """Into how many the prompts are cut, and how many streams a part holds of each."""
    by_stream = math.gcd(parts, group)
    return parts // by_stream, group // by_stream


def check_minibatches(minibatches: int, prompts: int, group: int) -> tuple[int, int]:
    """Refuses what `split` cannot deal out; the prompts and samples of each."""
    _check_count("minibatches", minibatches)
    by_prompt = math.gcd(minibatches, prompts)
    by_group = minibatches // by_prompt
    if group % by_group:
        raise ValueError(
            "minibatches must divide the prompts, or share a divisor with them and "
            f"divide the group by the rest. Received minibatches={minibatches} for "
            f"{prompts} prompts x {group} samples."
        )
    return prompts // by_prompt, group // by_group


def check_parts(name: str, parts: int, prompts: int, group: int):
    """Refuses parts that `streams_of` cannot cut."""
    _check_count(name, parts)
    by_prompt, _ = streams_of(parts, group)
    if prompts % by_prompt:
        raise ValueError(
            f"{name} must divide the group, or share a divisor with it and divide the "
            f"prompts by the rest. Received {name}={parts} for {prompts} prompts x "
            f"{group} samples"
            + (" (what a minibatch holds)." if name == "microbatches" else ".")
        )


def _check_count(name: str, count: int):
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{name} must be a positive integer. Received {count!r}.")
