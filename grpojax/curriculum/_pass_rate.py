"""Curricula that follow a table of pass rates."""

import abc

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .. import masked
from ..env import AbstractDatasetEnvironment
from ..types import Rewards
from ._curriculum import AbstractCurriculum, check_share, sample, step_key


class PassRates(eqx.Module):
    """A table of pass rates.

    **Fields:**

    - `rate`: the estimated pass rate of each bin, `Float[bin]`.
    - `bins`: the bin of each problem, `Int[problem]`.
    """

    rate: Float[Array, " bin"]
    bins: Int[Array, " problem"]


class AbstractPassRate(AbstractCurriculum[PassRates]):
    """Problems in proportion to a function of their pass rates, with a floor.

        probability_i = (1 - floor) · w(rate_i) / Σ w(rate) + floor / size

    A rate is a moving average over the steps that asked the problem, of the share of
    its completions that passed:

        rate <- decay^n · rate + (1 - decay^n) · observed

    where `n` counts the step's prompts of that problem. Rates start at a value where
    `w` is largest: what was never asked is asked first. Without a floor a problem on
    which all completions have failed, be it because of their format alone, has weight
    0 and is never asked again, so that nobody sees that the policy has since learned
    it. Rows to which the component does not apply do not count.

    **Fields:**

    - `decay`: what is kept of a rate, from 0 to 1.
    - `floor`: the share of draws that is uniform over all problems, from 0 to 1.
    - `component`: the reward component that is 1 where a completion passes; clipped
        to between 0 and 1.
    - `column`: a column of the environment's rows; problems with the same value share
        one rate. Each problem has its own when `None`, which takes several epochs of
        prompts to be of use.

    **Raises:** `ValueError` for a share out of range; in `init`, for a column that the
    rows lack; while tracing, for a component that the reward lacks.
    """

    decay: eqx.AbstractVar[float | int]
    floor: eqx.AbstractVar[float | int]
    component: eqx.AbstractVar[str]
    column: eqx.AbstractVar[str | None]
    initial: eqx.AbstractVar[float | int]
    """The rate of problems that were never asked."""

    def __check_init__(self):
        check_share(type(self).__name__, decay=self.decay, floor=self.floor)

    @abc.abstractmethod
    def weights(self, rate: Float[Array, " problem"]) -> Float[Array, " problem"]:
        """The weights of problems with these pass rates, at least 0."""

    def init(self, env: AbstractDatasetEnvironment) -> PassRates:
        bins, count = np.arange(env.size, dtype=np.int32), env.size
        if self.column is not None:
            columns = env.rows or {}
            if self.column not in columns:
                raise ValueError(
                    f"`{type(self).__name__}.column` is a column of the environment's "
                    f"rows: {', '.join(columns) or 'it has none'}. Received "
                    f"{self.column!r}: name another, or none."
                )
            numbers: dict[object, int] = {}
            for problem, value in enumerate(columns[self.column]):
                bins[problem] = numbers.setdefault(value, len(numbers))
            count = len(numbers)
        rate = jnp.full(count, self.initial, jnp.result_type(float))
        return PassRates(rate, jnp.asarray(bins))

    def probabilities(self, memory: PassRates) -> Float[Array, " problem"]:
        """The probability of each problem in a draw.

        **Arguments:**

        - `memory`: from `init` or `observe`.
        """
        weights = self.weights(memory.rate[memory.bins])
        total = jnp.sum(weights)
        shares = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), 0)
        floor = jnp.where(total > 0, self.floor, 1)
        return (1 - floor) * shares + floor / weights.size

    def draw(
        self,
        memory: PassRates,
        key: Key[Array, ""],
        step: Int[Array, ""],
        count: int,
    ) -> Int[Array, " count"]:
        return sample(self.probabilities(memory), step_key(key, step), count)

    def observe(
        self, memory: PassRates, problems: Int[Array, " prompt"], rewards: Rewards
    ) -> PassRates:
        if self.component not in rewards.components:
            raise ValueError(
                f"`{type(self).__name__}.component` is one of the reward's components: "
                f"{', '.join(rewards.components)}. Received {self.component!r}."
            )
        passed = rewards.components[self.component].astype(memory.rate.dtype)
        counts = rewards.valid & ~jnp.isnan(passed)
        observed = masked.mean(jnp.clip(passed, 0, 1), counts, axis=1)[:, 0]
        asked = jnp.any(counts, axis=1).astype(memory.rate.dtype)
        zeros, bins = jnp.zeros_like(memory.rate), memory.bins[problems]
        number = zeros.at[bins].add(asked)
        total = zeros.at[bins].add(observed * asked)
        kept = jnp.asarray(self.decay, memory.rate.dtype) ** number
        observed = total / jnp.maximum(number, 1)
        rate = kept * memory.rate + (1 - kept) * observed
        return PassRates(jnp.where(number > 0, rate, memory.rate), memory.bins)


class PassRateBand(AbstractPassRate):
    """Problems whose pass rate is within a band, such as those of DAPO's filter.

        w(rate) = 1 if low <= rate <= high, else 0

    **Fields:** besides those of `AbstractPassRate`,

    - `low`, `high`: the band, from 0 to 1; rates start in its middle.
    """

    low: float | int = 0.2
    high: float | int = 0.8
    decay: float | int = 0.5
    floor: float | int = 0.1
    component: str = eqx.field(static=True, default="correct")
    column: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_share("PassRateBand", low=self.low, high=self.high)
        if self.low > self.high:
            raise ValueError(
                "`PassRateBand` is a band from `low` to `high`. Received "
                f"low={self.low} and high={self.high}: exchange them."
            )

    @property
    def initial(self) -> float | int:
        return (self.low + self.high) / 2

    def weights(self, rate: Float[Array, " problem"]) -> Float[Array, " problem"]:
        return ((rate >= self.low) & (rate <= self.high)).astype(rate.dtype)


class Learnability(AbstractPassRate):
    """Problems in proportion to the variance of their pass, p (1 - p).

        w(rate) = rate · (1 - rate)

    A group whose completions all pass, or all fail, has no group-relative gradient:
    this asks what is neither learned nor out of reach. Source: Rutherford et al.,
    2024, "No Regrets: Investigating and Improving Regret Approximations for Curriculum
    Discovery".
    """

    decay: float | int = 0.5
    floor: float | int = 0.1
    component: str = eqx.field(static=True, default="correct")
    column: str | None = eqx.field(static=True, default=None)

    @property
    def initial(self) -> float | int:
        return 0.5

    def weights(self, rate: Float[Array, " problem"]) -> Float[Array, " problem"]:
        return rate * (1 - rate)
