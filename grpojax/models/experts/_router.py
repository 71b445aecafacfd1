"""The router: which experts a token has, with which weights."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Routing(eqx.Module):
    """The router's choice for every token.

    **Fields:**

    - `probability`: softmax of the router's logits over all experts.
    - `expert`: the experts with the highest probabilities.
    - `weight`: of each of them in the sum of their outputs.
    """

    probability: Float[Array, "token expert"]
    expert: Int[Array, "token choice"]
    weight: Float[Array, "token choice"]


def choose_experts(
    logits: Float[Array, "token expert"], count: int, normalizes: bool
) -> Routing:
    """The `count` experts of each token.

    **Arguments:**

    - `logits`: the router's, float32.
    - `count`: how many experts a token has.
    - `normalizes`: whether their weights sum to 1, which is a softmax of their logits
        alone; otherwise they are the probabilities.
    """
    probability = jax.nn.softmax(logits, axis=-1)
    weight, expert = jax.lax.top_k(probability, count)
    if normalizes:
        weight = weight / jnp.sum(weight, axis=-1, keepdims=True)
    return Routing(probability, expert, weight)
