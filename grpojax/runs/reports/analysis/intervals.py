"""95% confidence intervals of differences and means, and the exact sign test."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, stdtrit


Interval = tuple[float, float]


def newcombe(
    before: float, before_interval: Interval, after: float, after_interval: Interval
) -> Interval:
    """Newcombe's hybrid score interval of the difference of two proportions.

        lower = d - sqrt((p₂ - l₂)² + (u₁ - p₁)²)
        upper = d + sqrt((u₂ - p₂)² + (p₁ - l₁)²),   d = p₂ - p₁

    from their Wilson intervals (l, u), for independent samples.

    **Arguments:**

    - `before`, `after`: the proportions p₁ and p₂.
    - `before_interval`, `after_interval`: their Wilson intervals.

    **Returns:** the lower and the upper end.

    See "Interval estimation for the difference between independent proportions",
    Newcombe (1998), method 10.
    """
    difference = after - before
    down = math.hypot(after - after_interval[0], before_interval[1] - before)
    up = math.hypot(after_interval[1] - after, before - before_interval[0])
    return difference - down, difference + up


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's 95% t-interval of a mean; `None` for fewer than two values."""
    if len(values) < 2:
        return None
    half = _quantile(float(len(values) - 1)) * math.sqrt(_squared_error(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def welch(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    """Welch's 95% t-interval of mean(second) - mean(first).

    **Returns:** the lower and the upper end; `None` if one has fewer than two values.
    """
    if min(len(first), len(second)) < 2:
        return None
    parts = [(_squared_error(values), len(values) - 1) for values in (first, second)]
    total = sum(error for error, _ in parts)
    difference = float(np.mean(second) - np.mean(first))
    if total == 0:
        return difference, difference
    freedom = total**2 / sum(error**2 / count for error, count in parts)
    half = _quantile(freedom) * math.sqrt(total)
    return difference - half, difference + half


def sign_test(differences: Sequence[float]) -> float:
    """Two-sided exact p-value of the sign test; McNemar's test for differences of 0/1.

    Zero differences are ignored; if all are zero the p-value is 1.
    """
    rises = sum(difference > 0 for difference in differences)
    falls = sum(difference < 0 for difference in differences)
    return min(1.0, 2 * float(bdtr(min(rises, falls), rises + falls, 0.5)))


def _squared_error(values: Sequence[float]) -> float:
    return float(np.var(values, ddof=1)) / len(values)


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, 0.975))
