"""Logits and log-probabilities of one sequence under a policy."""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from ..types import Prompt
from ._contract import AbstractPolicy
from ._hidden import completion_hidden
from ._token_log_prob import token_log_prob


def as_prompt(prompt: Prompt | Int[ArrayLike, " prefix"]) -> Prompt:
    """A `Prompt` of one sequence, from token ids without padding.

    **Arguments:**

    - `prompt`: token ids; a `Prompt` is returned as it is.

    **Raises:** `ValueError` unless the token ids are one non-empty row.
    """
    if isinstance(prompt, Prompt):
        return prompt
    tokens = jnp.asarray(prompt)
    if tokens.ndim != 1 or tokens.shape[0] == 0:
        raise ValueError(
            "A prompt is a non-empty row of token ids. Received an array of shape "
            f"{tokens.shape}. Batches are `jax.vmap`; an empty prompt needs at least a "
            "beginning-of-sequence token."
        )
    return Prompt(tokens, jnp.asarray(tokens.shape[0], jnp.int32))


def logits(
    policy: AbstractPolicy, tokens: Int[ArrayLike, " time"]
) -> Float[Array, "time vocab"]:
    """Logits after every token of one sequence.

    **Arguments:**

    - `policy`: the policy.
    - `tokens`: token ids of the sequence.

    **Returns:** float32 logits; row `t` predicts token `t + 1`.
    """
    tokens = as_prompt(tokens).tokens
    hidden, _ = policy.extend(tokens, jnp.arange(tokens.shape[0]))
    return policy.logits(hidden)


def log_prob(
    policy: AbstractPolicy,
    prompt: Prompt | Int[ArrayLike, " prefix"],
    tokens: Int[ArrayLike, " time"],
    *,
    temperature: Float[ArrayLike, ""] = 1.0,
    vocab_size: int | None = None,
) -> Float[Array, " time"]:
    """Teacher-forced log-probability of each completion token, for one sequence.

        log π(tokens[t] | prompt, tokens[:t]) at the given temperature

    **Arguments:**

    - `policy`: the policy.
    - `prompt`: a `Prompt` of one sequence, or its token ids.
    - `tokens`: the completion's token ids.
    - `temperature`: divides the logits.
    - `vocab_size`: tokens from here on have probability 0, as
        `Trajectory.vocab_size` says; all count when `None`.

    **Returns:** log-probabilities, in nats.

    !!! example

        ```python
        from grpojax import policy

        nats = policy.log_prob(model, [3, 1, 4], [1, 5, 9], temperature=0.7)
        ```
    """
    tokens = jnp.asarray(tokens)
    hidden = completion_hidden(policy, as_prompt(prompt), tokens)
    return token_log_prob(policy.logits(hidden), tokens, temperature, vocab_size)[0]
