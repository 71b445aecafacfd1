"""Samplers: from the logits of one row to a token and its log-probability."""

import abc
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key

from .._checks import check_numbers
from ..policy import token_log_prob
from ..types import FloatLike


class AbstractSampler(eqx.Module):
    """A distribution of the next token, given logits."""

    temperature: eqx.AbstractVar[FloatLike]
    """Divides the logits in the log-probability that is recorded."""

    @abc.abstractmethod
    def __call__(
        self, logits: Float[Array, " vocab"], *, key: Key[Array, ""]
    ) -> tuple[Int[Array, ""], Float[Array, ""]]:
        """Draws one token for one row.

        **Arguments:**

        - `logits`: float32.
        - `key`: is consumed.

        **Returns:** the token, and its log-probability, in nats, under the distribution
        that it was drawn from.
        """


def _inverse_cdf(
    sums: Float[Array, " block"],
    weights_of: Callable[[Int[Array, ""]], Float[Array, " width"]],
    uniforms: Float[Array, "2"],
) -> Int[Array, ""]:
    """An index drawn with a probability in proportion to its weight.

    A block is drawn, and then an index inside of it: less work and less rounding than
    one long sum. Each has a uniform of its own: what is left of the first one's 23 bits
    cannot resolve the indices of a block. An index of weight 0 is never chosen.
    """

    row = _pick(_cumulate(sums), uniforms[0])
    weights = weights_of(row)
    return row * weights.size + _pick(_cumulate(weights), uniforms[1])


def _cumulate(weights: Float[Array, " index"]) -> Float[Array, " index"]:
    """Cumulative sums, as a product with a small triangle of ones."""
    triangle = jnp.triu(jnp.ones((weights.size,) * 2, weights.dtype))
    return jnp.matmul(weights, triangle, precision=jax.lax.Precision.HIGHEST)


def _pick(
    cumulative: Float[Array, " index"], uniform: Float[Array, ""]
) -> Int[Array, ""]:
    """The first index whose cumulative weight exceeds `uniform · total`."""
    # The threshold may round up to the total: the last index of positive weight then.
    last = jnp.sum(cumulative < cumulative[-1])
    return jnp.minimum(jnp.sum(cumulative <= uniform * cumulative[-1]), last)


def _in_blocks(x: Float[Array, " vocab"], fill: float) -> Float[Array, "block width"]:
    """√vocab blocks of √vocab."""
    width = math.isqrt(x.shape[0] - 1) + 1
    padded = jnp.pad(x, (0, width**2 - x.shape[0]), constant_values=fill)
    return padded.reshape(width, width)


class Categorical(AbstractSampler):
    """Sampling from softmax(logits / temperature), by its inverse CDF.

    Two uniforms are drawn for each token, where Gumbel sampling draws one for each
    entry of the vocabulary.

    **Fields:**

    - `temperature`: positive.

    **Raises:** `ValueError` for a temperature that is not positive and finite.
    """

    temperature: FloatLike = 1.0

    def __check_init__(self):
        temperature = self.temperature
        if isinstance(temperature, float | int) and not 0 < temperature < math.inf:
            raise ValueError(
                "Categorical(temperature=...) must be positive and finite. Received "
                f"temperature={temperature}. For the limit of 0 pass "
                "`sampler=rollout.Greedy()`; training needs a positive temperature."
            )
        check_numbers("Categorical", temperature=temperature)

    def __call__(self, logits, *, key):
        scaled = logits / jnp.asarray(self.temperature, logits.dtype)
        table = _in_blocks(scaled, -jnp.inf)
        # Every logit is read twice: for its block's maximum and for its block's sum.
        peaks = jnp.max(table, axis=-1)
        peak = jnp.max(peaks)
        level = jnp.where(peaks == -jnp.inf, 0, peaks)
        sums = jnp.sum(jnp.exp(table - level[:, None]), axis=-1)
        sums = sums * jnp.exp(peaks - peak)
        weights_of = lambda row: jnp.exp(table[row] - peak)
        token = _inverse_cdf(sums, weights_of, jr.uniform(key, (2,)))
        return token, scaled[token] - peak - jnp.log(jnp.sum(sums))


class Greedy(AbstractSampler):
    """The most likely token, with its log-probability under the policy.

    For evaluation: the recorded log-probability is not that of the distribution which
    was sampled from, so tokens drawn greedily should not be trained on.
    """

    def __init__(self):
        pass

    @property
    def temperature(self) -> float:
        """1: the logits are not scaled."""
        return 1.0

    def __call__(self, logits, *, key):
        del key  # Greedy decoding draws nothing.
        token = jnp.argmax(logits)
        log_prob, _ = token_log_prob(logits, token)
        return token, log_prob
