import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..types import Rewards, Trajectory


class Repetition(eqx.Module):
    """A penalty for saying the same over and over.

        -most · (1 - distinct / all)

    where `all` counts the runs of `size` tokens in what the policy sampled, and
    `distinct` those that differ; 0 for a row shorter than `size`.

    **Fields:**

    - `size`: tokens in a run.
    - `most`: what a row that repeats one run for ever loses.
    - `name`: of the component.

    **Raises:** `ValueError` for a size below 1.

    Source: arXiv:2502.03373; open-r1's `get_repetition_penalty_reward`, which counts
    runs of words.
    """

    size: int = eqx.field(static=True, default=3)
    most: float | Float[Array, ""] = 1.0
    name: str = eqx.field(static=True, kw_only=True, default="repetition")

    def __check_init__(self):
        if self.size < 1:
            raise ValueError(
                f"Repetition(size): must be at least 1 token. Received {self.size}."
            )

    def __call__(self, trajectory: Trajectory) -> Rewards:
        count = jax.vmap(jax.vmap(self._count))
        distinct, runs = count(trajectory.tokens, trajectory.sampled)
        dtype = jnp.result_type(float)
        repeated = (runs - distinct).astype(dtype) / jnp.maximum(runs, 1)
        paid = -self.most * repeated
        return Rewards.of(paid, name=self.name, lengths=trajectory.lengths)

    def _count(
        self, tokens: Int[Array, " time"], sampled: Bool[Array, " time"]
    ) -> tuple[Int[Array, ""], Int[Array, ""]]:
        """Distinct runs and all runs of one row: sorted, equal runs are neighbors."""
        runs = tokens.shape[0] - self.size + 1
        if runs < 1:
            return jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        start = jnp.arange(runs)[:, None] + jnp.arange(self.size)
        whole = jnp.all(sampled[start], axis=1)
        columns = (~whole, *tokens[start].T)
        unfinished, *said = jax.lax.sort(columns, num_keys=len(columns))
        said = jnp.stack(said)
        new = jnp.any(said[:, 1:] != said[:, :-1], axis=0)
        new = jnp.concatenate([jnp.ones(1, bool), new]) & ~unfinished
        count = lambda x: jnp.sum(x, dtype=jnp.int32)
        return count(new), count(whole)
