"""Teacher forcing: what a policy thinks of completions, in chunks and in parts."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ..policy import AbstractPolicy, completion_hidden, token_log_prob
from ..types import Prompt, Trajectory
from ._surrogate import Number


Scored = tuple[Float[Array, "prompt group time"], Float[Array, "prompt group time"]]
"""Log-probabilities and entropies."""

# Elements of the largest block of logits that exists at a time: 32 MiB in float32.
_LOGITS_BLOCK = 2**23


def score(
    policy: AbstractPolicy,
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    *,
    temperature: Number = 1.0,
    chunk: int | None = None,
) -> Scored:
    """Teacher-forced log-probabilities and entropies of a batch of completions.

    Each prompt is run once for its group, and the vocabulary projection is computed in
    chunks that are recomputed in the backward pass: no array of
    `prompt · group · time · vocab` entries ever exists.

    **Arguments:**

    - `policy`: the policy that scores.
    - `prompt`, `tokens`: as in `Trajectory`.
    - `temperature`: divides the logits.
    - `chunk`: positions projected at a time; by default 2²³ / vocab.

    **Returns:** log-probabilities and entropies, nats.
    """
    hidden = jax.vmap(lambda p, t: completion_hidden(policy, p, t))(prompt, tokens)
    count = tokens.size
    if chunk is None:
        chunk = max(_LOGITS_BLOCK // policy.vocab_size, 1)
    chunk = min(chunk, count)
    blocks = -(-count // chunk)

    def cut(x):
        x = x.reshape(count, *x.shape[3:])
        padding = [(0, blocks * chunk - count)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(blocks, chunk, *x.shape[1:])

    @jax.checkpoint
    def block(operands):
        hidden, tokens = operands
        return token_log_prob(policy.logits(hidden), tokens, temperature)

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


def join(parts: Array, prompts: int) -> Array:
    """The inverse of `split`, for one array of rows."""
    by_prompt = math.gcd(parts.shape[0], prompts)
    by_group = parts.shape[0] // by_prompt
    x = parts.reshape(by_prompt, by_group, *parts.shape[1:])
    # (by_prompt, by_group, prompt, group, ...) -> (prompt, by_prompt, group, by_group)
    x = jnp.moveaxis(x, (2, 0, 3, 1), (0, 1, 2, 3))
    return x.reshape(prompts, x.shape[2] * by_group, *x.shape[4:])


def score_in_parts(
    policy: AbstractPolicy,
    trajectory: Trajectory,
    parts: int,
    *,
    temperature: Number,
    chunk: int | None,
) -> Scored:
    """Scores without a gradient, part by part so that memory follows the parts."""

    def one(part):
        return score(policy, *part, temperature=temperature, chunk=chunk)

    scores = jax.lax.map(one, split(parts, trajectory.prompt, trajectory.tokens))
    whole = lambda x: jax.lax.stop_gradient(join(x, trajectory.tokens.shape[0]))
    return jax.tree.map(whole, scores)


def check_parts(prompts: int, group: int, **parts: int):
    """Refuses parts that `split` cannot deal out, one after another."""
    for name, count in parts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive integer. Received {count!r}.")
        by_prompt = math.gcd(count, prompts)
        if group % (count // by_prompt):
            raise ValueError(
                f"{name} must divide the prompts, or share a divisor with them and "
                f"divide the group by the rest. Received {name}={count} for {prompts} "
                f"prompts x {group} samples"
                + (" (what a minibatch holds)." if name == "microbatches" else ".")
            )
        prompts, group = prompts // by_prompt, group // (count // by_prompt)
