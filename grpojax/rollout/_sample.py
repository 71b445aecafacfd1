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

    def draw(
        self,
        logits: Float[Array, "slot vocab"],
        row: Int[Array, " slot"],
        *,
        key: Key[Array, " slot"],
    ) -> tuple[Int[Array, " slot"], Float[Array, " slot"]]:
        """A token for each slot; every row is drawn in the same way by default.

        **Arguments:**

        - `logits`, `key`: of each slot, as in `__call__`.
        - `row`: which row each slot decodes; out of bounds for an idle slot.

        **Returns:** the tokens and their log-probabilities.
        """
        del row
        return jax.vmap(lambda logits, key: self(logits, key=key))(logits, key)


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
        _check_temperature(self)

    def __call__(self, logits, *, key):
        return draw_token(logits / jnp.asarray(self.temperature, logits.dtype), key)


def _check_temperature(sampler: AbstractSampler):
    name, temperature = type(sampler).__name__, sampler.temperature
    if isinstance(temperature, float | int) and not 0 < temperature < math.inf:
        raise ValueError(
            f"{name}(temperature=...) must be positive and finite. Received "
            f"temperature={temperature}. For the limit of 0 pass "
            "`sampler=rollout.Greedy()`; training needs a positive temperature."
        )
    check_numbers(name, temperature=temperature)


def draw_token(
    scaled: Float[Array, " vocab"], key: Key[Array, ""]
) -> tuple[Int[Array, ""], Float[Array, ""]]:
    """A token drawn from the softmax, and its log-probability."""
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


class Truncated(AbstractSampler):
    """Sampling from the likeliest tokens only, by top-k, top-p and min-p.

        p = softmax(logits / temperature)
        top-k: the k largest p
        top-p: of these, renormalized, the fewest that sum to at least `top_p`
        min-p: of these, the ones with p >= min_p · max p

    The order is that of Hugging Face's `generate`. Tokens that are exactly as likely as
    the last one that is kept are kept too. The token is drawn from what is left,
    renormalized, and its log-probability is that of this distribution.

    For evaluations and `generate`: the loss compares log-probabilities of the whole
    softmax, so training refuses it.

    **Fields:**

    - `temperature`: positive.
    - `top_k`: how many tokens are kept; all when `None`.
    - `top_p`: their total probability, in (0, 1]; 1 when `None`.
    - `min_p`: the least probability relative to the likeliest token's, in [0, 1]; 0
        when `None`.

    **Raises:** `ValueError` for a value out of its range.

    !!! example

        ```python
        Truncated(0.6, top_k=20, top_p=0.95)  # As Qwen3's model card recommends.
        ```
    """

    temperature: FloatLike = 1.0
    top_k: int | None = eqx.field(static=True, kw_only=True, default=None)
    top_p: FloatLike | None = eqx.field(kw_only=True, default=None)
    min_p: FloatLike | None = eqx.field(kw_only=True, default=None)

    def __check_init__(self):
        _check_temperature(self)
        within = {
            "top_k": ("a positive integer", lambda x: isinstance(x, int) and x >= 1),
            "top_p": ("in (0, 1]", lambda x: 0 < x <= 1),
            "min_p": ("in [0, 1]", lambda x: 0 <= x <= 1),
        }
        for name, (words, holds) in within.items():
            value = vars(self)[name]
            if isinstance(value, float | int) and not holds(value):
                raise ValueError(
                    f"Truncated({name}=...) must be {words}. Received {name}={value}."
                )

    def __call__(self, logits, *, key):
        scaled = logits / jnp.asarray(self.temperature, logits.dtype)
        kept = scaled >= self._least(scaled)
        return draw_token(jnp.where(kept, scaled, -jnp.inf), key)

    def _least(self, scaled: Float[Array, " vocab"]) -> Float[Array, ""]:
        """The smallest of the scaled logits that are kept."""
        least = jnp.asarray(-jnp.inf, scaled.dtype)
        if self.top_k is not None or self.top_p is not None:
            size = min(self.top_k or scaled.size, scaled.size)
            largest, _ = jax.lax.top_k(scaled, size)
            count = jnp.asarray(size)
            if self.top_p is not None:
                # What the likelier ones sum to; 0 for the first, which always stays.
                before = jnp.cumsum(jax.nn.softmax(largest))[:-1]
                short = before < jnp.asarray(self.top_p, scaled.dtype)
                count = 1 + jnp.sum(short)
            least = largest[count - 1]
        if self.min_p is not None:
            floor = jnp.log(jnp.asarray(self.min_p, scaled.dtype))
            least = jnp.maximum(least, jnp.max(scaled) + floor)
        return least


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
