"""Rewards that depend on the length of a row, counted in sampled tokens."""

import equinox as eqx
import jax.numpy as jnp

from .._checks import check_at_least
from ..types import FloatLike, Rewards, Trajectory


class SoftOverlong(eqx.Module):
    """A penalty that grows linearly over the last `buffer` tokens of the horizon.

        0                     if n <= horizon - buffer
        (safe - n) / buffer   if n <= horizon, where safe = horizon - buffer
        -1                    beyond

    where `n` counts the tokens that the policy sampled, end token included.

    **Fields:**

    - `horizon`: the length from which the penalty is -1, tokens; 20480 in DAPO.
    - `buffer`: the length of the ramp before it, tokens; 4096 in DAPO.
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
                "SoftOverlong(horizon, buffer): 1 <= buffer <= horizon. Received "
                f"horizon={self.horizon} and buffer={self.buffer}."
            )

    def __call__(self, trajectory: Trajectory) -> Rewards:
        over = trajectory.lengths - (self.horizon - self.buffer)
        share = over.astype(jnp.result_type(float)) / self.buffer
        penalty = -jnp.clip(share, 0, 1)
        return Rewards.of(penalty, name=self.name, lengths=trajectory.lengths)


class Cosine(eqx.Module):
    """A cosine schedule over length: rewards short correct rows, and long wrong ones.

        long + (short - long) · (1 + cos(π n / horizon)) / 2

    where `n <= horizon` counts the tokens that the policy sampled, and `short` and
    `long` are the rewards at length 0 and at the horizon.

    **Fields:**

    - `horizon`: tokens.
    - `component`: the environment's reward that is positive for a correct row.
    - `correct_short`, `correct_long`: `short` and `long` of correct rows.
    - `wrong_short`, `wrong_long`: those of wrong rows.
    - `name`: of the component.

    **Raises:** `ValueError` for a horizon below 1, or if the environment has no such
    component.

    Source: arXiv:2502.03373; open-r1's `cosine_scaled_reward`, which counts characters,
    and whose cosine continues beyond the horizon, where this one is constant.
    """

    horizon: int = eqx.field(static=True)
    component: str = eqx.field(static=True, default="correct")
    correct_short: FloatLike = eqx.field(kw_only=True, default=1.0)
    correct_long: FloatLike = eqx.field(kw_only=True, default=0.5)
    wrong_short: FloatLike = eqx.field(kw_only=True, default=-1.0)
    wrong_long: FloatLike = eqx.field(kw_only=True, default=-0.5)
    name: str = eqx.field(static=True, kw_only=True, default="cosine")

    def __check_init__(self):
        check_at_least("Cosine", 1, horizon=self.horizon)

    def __call__(self, trajectory: Trajectory) -> Rewards:
        if self.component not in trajectory.rewards:
            raise ValueError(
                "`Cosine.component` is one of the environment's rewards, "
                f"{sorted(trajectory.rewards)}. Received {self.component!r}."
            )
        correct = trajectory.rewards[self.component] > 0
        short = jnp.where(correct, self.correct_short, self.wrong_short)
        long = jnp.where(correct, self.correct_long, self.wrong_long)
        lengths = trajectory.lengths
        progress = jnp.minimum(lengths.astype(short.dtype) / self.horizon, 1)
        reward = long + (short - long) * (1 + jnp.cos(jnp.pi * progress)) / 2
        return Rewards.of(reward, name=self.name, lengths=lengths)
