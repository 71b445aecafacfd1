"""Samplers: from the logits of one row to a token and its log-probability."""

import abc
import math
from collections.abc import Callable

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
    sums: Float[Array, " block"],
    weights_of: Callable[[Int[Array, ""]], Float[Array, " width"]],
    uniform: Float[Array, ""],
) -> Int[Array, ""]:
    """The first index whose cumulative weight exceeds `uniform · total`.

    Cumulates over blocks and then inside the chosen one: less work and less rounding
    than one long sum, and both are products with a small triangle of ones. An index of
    weight 0 is never chosen.
    """

    def pick(weights, threshold):
        triangle = jnp.triu(jnp.ones((weights.size,) * 2, weights.dtype))
        cumulative = jnp.matmul(weights, triangle, precision=jax.lax.Precision.HIGHEST)
        # `threshold` may round up to the total: the last index of positive weight then.
        last = jnp.sum(cumulative < cumulative[-1])
        index = jnp.minimum(jnp.sum(cumulative <= threshold), last)
        return index, threshold - (cumulative[index] - weights[index])

    row, rest = pick(sums, uniform * jnp.sum(sums))
    weights = weights_of(row)
    column, _ = pick(weights, jnp.maximum(rest, 0))
    return row * weights.size + column


def _in_blocks(x: Float[Array, " vocab"], fill: float) -> Float[Array, "block width"]:
    """√vocab blocks of √vocab."""
    width = math.isqrt(x.shape[0] - 1) + 1
    padded = jnp.pad(x, (0, width**2 - x.shape[0]), constant_values=fill)
    return padded.reshape(width, width)


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
        table = _in_blocks(scaled, -jnp.inf)
        # All that is ever read of every logit: each block's peak and sum.
        peaks = jnp.max(table, axis=-1)
        peak = jnp.max(peaks)
        level = jnp.where(peaks == -jnp.inf, 0, peaks)
        sums = jnp.sum(jnp.exp(table - level[:, None]), axis=-1)
        sums = sums * jnp.exp(peaks - peak)
        weights_of = lambda row: jnp.exp(table[row] - peak)
        token = _inverse_cdf(sums, weights_of, jr.uniform(key))
        return token, scaled[token] - peak - jnp.log(jnp.sum(sums))


class Greedy(AbstractSampler):
    """Takes the most likely token, of which the policy's log-probability is recorded.

    For evaluation: what it records is not the distribution that it sampled from.
    """

    def __call__(self, logits, *, key):
        del key  # Greedy decoding draws nothing.
        token = jnp.argmax(logits)
        log_prob, _ = token_log_prob(logits, token)
        return token, log_prob
