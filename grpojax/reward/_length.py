"""Rewards that look at how long a row is: in tokens, which is what a horizon counts."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..types import Rewards, Trajectory


Number = float | Float[Array, ""]


class SoftOverlong(eqx.Module):
    """A penalty that sets in before the horizon does.

        0                     if n <= horizon - buffer
        (safe - n) / buffer   if n <= horizon, where safe = horizon - buffer
        -1                    beyond

    where `n` counts the tokens that the policy sampled, end token included.

    **Fields:**

    - `horizon`: the length at which the penalty is full, 20480 in DAPO.
    - `buffer`: how many tokens before it the penalty sets in, 4096 in DAPO.
    - `name`: of the component.

    **Raises:** `ValueError` unless `1 <= buffer <= horizon`.

    Source: DAPO, arXiv:2503.14476, equation 13; TRL's `get_soft_overlong_punishment`.
    """

    horizon: int = eqx.field(static=True)
    buffer: int = eqx.field(static=True)
    name: str = eqx.field(static=True, kw_only=True, default="soft_overlong")

    def __check_init__(self):
        if not 1 <= self.buffer <= self.horizon:
            raise ValueError(
                "SoftOverlong(horizon, buffer): the buffer is a part of the horizon, "
                f"1 <= buffer <= horizon. Received horizon={self.horizon} and "
                f"buffer={self.buffer}."
            )

    def __call__(self, trajectory: Trajectory) -> Rewards:
        over = trajectory.lengths - (self.horizon - self.buffer)
        share = over.astype(jnp.result_type(float)) / self.buffer
        penalty = -jnp.clip(share, 0, 1)
        return Rewards.of(penalty, name=self.name, lengths=trajectory.lengths)


class Cosine(eqx.Module):
    """Pays by correctness and length: for right rows brevity, for wrong ones effort.

        long + (short - long) · (1 + cos(π n / horizon)) / 2

    where `n <= horizon` counts the tokens that the policy sampled, and `short` and
    `long` are what a row of no length and one of the horizon's are paid.

    **Fields:**

    - `horizon`: tokens.
    - `judged_by`: the environment's component that is positive for a right row.
    - `right_short`, `right_long`, `wrong_short`, `wrong_long`: the four ends.
    - `name`: of the component.

    **Raises:** `ValueError` for a horizon below 1, or if the environment does not pay
    the component.

    Source: arXiv:2502.03373; open-r1's `cosine_scaled_reward`, which counts characters
    and starts anew beyond the horizon, where this one stays.
    """

    horizon: int = eqx.field(static=True)
    judged_by: str = eqx.field(static=True, default="correct")
    right_short: Number = eqx.field(kw_only=True, default=1.0)
    right_long: Number = eqx.field(kw_only=True, default=0.5)
    wrong_short: Number = eqx.field(kw_only=True, default=-1.0)
    wrong_long: Number = eqx.field(kw_only=True, default=-0.5)
    name: str = eqx.field(static=True, kw_only=True, default="cosine")

    def __check_init__(self):
        if self.horizon < 1:
            raise ValueError(
                f"Cosine(horizon): must be at least 1 token. Received {self.horizon}."
            )

    def __call__(self, trajectory: Trajectory) -> Rewards:
        if self.judged_by not in trajectory.rewards:
            raise ValueError(
                "Cosine is judged by a component that the environment pays. Received "
                f"judged_by={self.judged_by!r}; the environment pays "
                f"{sorted(trajectory.rewards)}."
            )
        right = trajectory.rewards[self.judged_by] > 0
        short = jnp.where(right, self.right_short, self.wrong_short)
        long = jnp.where(right, self.right_long, self.wrong_long)
        lengths = trajectory.lengths
        progress = jnp.minimum(lengths.astype(short.dtype) / self.horizon, 1)
        paid = long + (short - long) * (1 + jnp.cos(jnp.pi * progress)) / 2
        return Rewards.of(paid, name=self.name, lengths=lengths)
