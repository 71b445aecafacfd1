"""A sampler with numbers of its own for each row."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..policy import token_log_prob
from ._sample import AbstractSampler, draw_token


class RowSampler(AbstractSampler):
    """Sampling in which every row has its own temperature and truncation.

    A row's tokens and log-probabilities are those of `Greedy` at temperature 0, else of
    `Truncated`, or of `Categorical` if nothing is truncated. Logits are sorted only
    while a row is decoded whose `top_k` or `top_p` truncates.

    For servers, whose requests differ: a trajectory has a single temperature, so
    `finish` refuses it. `progress` reads the rows.

    **Fields:** one number for each row, prompt by prompt.

    - `temperature`: 0 for the likeliest token.
    - `top_k`: how many tokens are kept; all when 0.
    - `top_p`: their total probability, in (0, 1].
    - `min_p`: the least probability relative to the likeliest token's, in [0, 1].

    !!! example

        ```python
        RowSampler(jnp.ones(8), jnp.zeros(8, int), jnp.ones(8), jnp.zeros(8))
        ```
    """

    temperature: Float[Array, "..."]
    top_k: Int[Array, "..."]
    top_p: Float[Array, "..."]
    min_p: Float[Array, "..."]

    def __call__(self, logits, *, key):
        rows = jax.tree.map(lambda x: x[None], self)
        first = jnp.zeros(1, jnp.int32)
        token, log_prob = rows.draw(logits[None], first, key=key[None])
        return token[0], log_prob[0]

    def draw(self, logits, row, *, key):
        size, dtype = self.temperature.size, logits.dtype
        own = jax.tree.map(lambda x: x[jnp.minimum(row, size - 1)], self)
        greedy = own.temperature == 0
        temperature = jnp.where(greedy, 1, own.temperature).astype(dtype)
        scaled = logits / temperature[:, None]
        # Branches of the whole batch: batched by `vmap` all of them would run.
        sorts = (row < size) & (own._truncates | (own.min_p > 0))
        least = jax.lax.cond(
            jnp.any(sorts),
            lambda: jax.vmap(_least)(scaled, own),
            lambda: jnp.full(row.shape, -jnp.inf, dtype),
        )
        kept = jnp.where(scaled >= least[:, None], scaled, -jnp.inf)
        drawn = jax.vmap(draw_token)(kept, key)

        def likeliest():
            token = jnp.argmax(logits, axis=-1).astype(drawn[0].dtype)
            log_prob, _ = jax.vmap(token_log_prob)(logits, token)
            pick = lambda new, old: jnp.where(greedy, new, old)
            return pick(token, drawn[0]), pick(log_prob, drawn[1])

        return jax.lax.cond(jnp.any((row < size) & greedy), likeliest, lambda: drawn)

    @property
    def _truncates(self) -> Bool[Array, "..."]:
        return (self.top_k > 0) | (self.top_p < 1)


def _least(scaled: Float[Array, " vocab"], own: RowSampler) -> Float[Array, ""]:
    """The smallest of one row's scaled logits that are kept; see `Truncated`."""
    size = scaled.size
    ordered, _ = jax.lax.top_k(scaled, size)
    most = jnp.where(own.top_k > 0, jnp.minimum(own.top_k, size), size)
    place = jnp.arange(size, dtype=most.dtype)
    largest = jnp.where(place < most, ordered, -jnp.inf)
    before = jnp.cumsum(jax.nn.softmax(largest))[:-1]
    count = 1 + jnp.sum(before < own.top_p.astype(scaled.dtype), dtype=most.dtype)
    count = jnp.where(own.top_p < 1, jnp.minimum(count, most), most)
    floor = jnp.log(own.min_p.astype(scaled.dtype))
    return jnp.maximum(largest[count - 1], jnp.max(scaled) + floor)
