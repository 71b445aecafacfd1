"""A penalty on repeated n-grams."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from .._checks import check_at_least
from ..types import FloatLike, Rewards, Trajectory


class Repetition(eqx.Module):
    """A penalty on the share of repeated n-grams among the sampled tokens.

        -max_penalty · (1 - distinct / all)

    where `all` counts the n-grams of a row and `distinct` the different ones; 0 for a
    row shorter than `ngram_size`.

    **Fields:**

    - `ngram_size`: tokens of an n-gram.
    - `max_penalty`: the limit for a row that repeats one n-gram.
    - `name`: of the component.

    **Raises:** `ValueError` for an `ngram_size` below 1.

    Source: arXiv:2502.03373; open-r1's `get_repetition_penalty_reward`, which counts
    n-grams of words.
    """

    ngram_size: int = eqx.field(static=True, default=3)
    max_penalty: FloatLike = 1.0
    name: str = eqx.field(static=True, kw_only=True, default="repetition")

    def __check_init__(self):
        check_at_least("Repetition", 1, ngram_size=self.ngram_size)

    def __call__(self, trajectory: Trajectory) -> Rewards:
        count = jax.vmap(jax.vmap(self._count))
        distinct, total = count(trajectory.tokens, trajectory.sampled)
        number = lambda x: x.astype(jnp.result_type(float))
        repeated = number(total - distinct) / number(jnp.maximum(total, 1))
        penalty = -self.max_penalty * repeated
        return Rewards.of(penalty, name=self.name, lengths=trajectory.lengths)

    def _count(
        self, tokens: Int[Array, " time"], sampled: Bool[Array, " time"]
    ) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """Counts the distinct n-grams and all n-grams of one row.

        Sorted, equal n-grams are neighbors; those with a token that was not sampled are
        sorted to the end.
        """
        positions = tokens.shape[0] - self.ngram_size + 1
        if positions < 1:
            return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        index = jnp.arange(positions)[:, None] + jnp.arange(self.ngram_size)
        valid = jnp.all(sampled[index], axis=1)
        columns = (~valid, *tokens[index].T)
        invalid, *ngrams = jax.lax.sort(columns, num_keys=len(columns))
        ngrams = jnp.stack(ngrams)
        new = jnp.any(ngrams[:, 1:] != ngrams[:, :-1], axis=0)
        new = jnp.concatenate([jnp.ones(1, bool), new]) & ~invalid
        count = lambda x: jnp.sum(x, dtype=jnp.int32)
        return count(new), count(valid)
