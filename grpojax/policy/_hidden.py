"""Prompts and completions through a policy: the only place that shifts a sequence."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..types import Prompt
from ._contract import AbstractPolicy, Past


_Cache = TypeVar("_Cache")


def prefill(policy: AbstractPolicy[_Cache], prompt: Prompt) -> _Cache:
    """The cache of one prompt, which its whole group may share."""
    return policy.extend(prompt.tokens, jnp.arange(prompt.tokens.shape[0]))[1]


def empty_cache(policy: AbstractPolicy[_Cache], columns: int) -> _Cache:
    """A cache of `columns` columns for one sequence, filled with zeros."""
    token = jnp.zeros(columns, jnp.int32)
    shapes = jax.eval_shape(lambda: policy.extend(token, token)[1])
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def completion_hidden(
    policy: AbstractPolicy[_Cache], prompt: Prompt, tokens: Int[Array, "*group time"]
) -> Float[Array, "*group time hidden"]:
    """The hidden state that predicts each completion token, for one prompt's group.

    The prompt is prefilled once for the whole group. Its last token is masked in that
    cache and prepended to every completion instead: `hidden[t]` then predicts
    `tokens[t]`, here and in the sampler alike.

    **Arguments:**

    - `policy`: the policy.
    - `prompt`: the group's prompt.
    - `tokens`: token ids of the completions.

    **Returns:** hidden states, for `policy.logits`.
    """
    # The prompt's last token is the first of the chunk instead.
    in_prompt = jnp.arange(prompt.tokens.shape[0]) < prompt.length - 1
    past = Past(prefill(policy, prompt), in_prompt[None])
    last = prompt.tokens[prompt.length - 1]
    positions = prompt.length - 1 + jnp.arange(tokens.shape[-1])

    def one(row: Int[Array, " time"]):
        inputs = jnp.concatenate([last[None], row[:-1]])
        return policy.extend(inputs, positions, past)[0]

    for _ in range(tokens.ndim - 1):
        one = jax.vmap(one)
    return one(tokens)
