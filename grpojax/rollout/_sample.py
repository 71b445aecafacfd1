"""Samplers: from the logits of one row to a token and its log-probability."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key

from ..policy import token_log_prob


class AbstractSampler(eqx.Module):
    """Draws one token for one row, and says what it really sampled from."""

    @abc.abstractmethod
    def __call__(
        self, logits: Float[Array, " vocab"], *, key: Key[Array, ""]
    ) -> tuple[Int[Array, ""], Float[Array, ""]]:
        """The token, and its log-probability under the distribution drawn from."""


def _inverse_cdf(
    probability: Float[Array, " vocab"], uniform: Float[Array, ""]
) -> Int[Array, ""]:
    """The first index whose cumulative probability exceeds `uniform · total`.

    Cumulates over √vocab blocks and then inside the chosen one: less work and less
    rounding than one long sum, and both are products with a small triangle of ones.
    An index of probability 0 is never chosen.
    """
    block = math.isqrt(probability.shape[0] - 1) + 1
    table = jnp.pad(probability, (0, block**2 - probability.shape[0]))
    table = table.reshape(block, block)
    triangle = jnp.triu(jnp.ones((block, block), probability.dtype))

    def pick(weights, threshold):
        cumulative = jnp.matmul(weights, triangle, precision=jax.lax.Precision.HIGHEST)
        # `threshold` may round up to the total: the last index of positive weight then.
        last = jnp.sum(cumulative < cumulative[-1])
        index = jnp.minimum(jnp.sum(cumulative <= threshold), last)
        return index, threshold - (cumulative[index] - weights[index])

    sums = jnp.sum(table, axis=-1)
    row, rest = pick(sums, uniform * jnp.sum(sums))
    column, _ = pick(table[row], jnp.maximum(rest, 0))
    return row * block + column


class Categorical(AbstractSampler):
    """Samples softmax(logits / temperature) by inverting its cumulative distribution.

    One uniform is drawn for each token, where Gumbel sampling draws one for each entry
    of the vocabulary.
    """

    temperature: Float[Array, ""] | float = 1.0

    def __check_init__(self):
        if isinstance(self.temperature, float | int) and self.temperature <= 0:
            raise ValueError(
                "Categorical(temperature=...) must be positive. Received "
                f"temperature={self.temperature}. For the limit of 0 pass "
                "`sampler=rollout.Greedy()`; training needs a positive temperature."
            )

    def __call__(self, logits, *, key):
        scaled = logits / jnp.asarray(self.temperature, logits.dtype)
        token = _inverse_cdf(jax.nn.softmax(scaled), jr.uniform(key))
        log_prob, _ = token_log_prob(logits, token, self.temperature)
        return token, log_prob


class Greedy(AbstractSampler):
    """Takes the most likely token, of which the policy's log-probability is recorded.

    For evaluation: what it records is not the distribution that it sampled from.
    """

    def __call__(self, logits, *, key):
        del key  # Greedy decoding draws nothing.
        token = jnp.argmax(logits)
        log_prob, _ = token_log_prob(logits, token)
        return token, log_prob
