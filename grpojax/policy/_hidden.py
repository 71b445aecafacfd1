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
    policy: AbstractPolicy[_Cache],
    prompt: Prompt,
    tokens: Int[Array, "*group time"],
    context: _Cache | None = None,
    position: Int[Array, "*group time"] | None = None,
) -> Float[Array, "*group time hidden"]:
    """The hidden state that predicts each completion token, for one prompt's group.

    The prompt is prefilled once for the whole group. Its last token is masked in that
    cache and prepended to every completion instead: `hidden[t]` then predicts
    `tokens[t]`, here and in the sampler alike.

    **Arguments:**

    - `policy`: the policy.
    - `prompt`: the group's prompt.
    - `tokens`: token ids of the completions.
    - `context`: the prompt's cache from `prefill`; computed here by default.
    - `position`: each token's position in its own completion, where several are packed
        into one sequence; a token then attends to its own completion only.

    **Returns:** hidden states, for `policy.logits`.
    """
    if context is None:
        context = prefill(policy, prompt)
    # The prompt's last token is the first of the chunk instead.
    in_prompt = jnp.arange(prompt.tokens.shape[0]) < prompt.length - 1
    past = Past(context, in_prompt[None])
    last = prompt.tokens[prompt.length - 1]
    time = tokens.shape[-1]

    def one(row: Int[Array, " time"], position: Int[Array, " time"] | None):
        inputs = jnp.concatenate([last[None], row[:-1]])
        visible, offset = None, jnp.arange(time)
        if position is not None:
            inputs = jnp.where(position == 0, last, inputs)
            age = offset[:, None] - offset[None]
            visible = (age >= 0) & (age <= position[:, None])
            offset = position
        hidden, _ = policy.extend(
            inputs, prompt.length - 1 + offset, past, visible=visible
        )
        return hidden

    for _ in range(tokens.ndim - 1):
        one = jax.vmap(one)
    return one(tokens, position)
