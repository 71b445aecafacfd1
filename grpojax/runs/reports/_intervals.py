"""How sure a difference is: intervals of 95% and one exact test."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, stdtrit


Interval = tuple[float, float]


def newcombe(
    before: float, before_interval: Interval, after: float, after_interval: Interval
) -> Interval:
    """Newcombe's hybrid score interval of a difference of two independent proportions.

        lower = d - sqrt((p₂ - l₂)² + (u₁ - p₁)²)
        upper = d + sqrt((u₂ - p₂)² + (p₁ - l₁)²),   d = p₂ - p₁

    from their Wilson intervals (l, u). See "Interval estimation for the difference
    between independent proportions", Newcombe (1998), method 10.
    """
    difference = after - before
    down = math.hypot(after - after_interval[0], before_interval[1] - before)
    up = math.hypot(after_interval[1] - after, before - before_interval[0])
    return difference - down, difference + up


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's t-interval of a mean; of fewer than two values nothing is known."""
    if len(values) < 2:
        return None
    half = _quantile(float(len(values) - 1)) * math.sqrt(_squared_error(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def welch(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    """Welch's t-interval of mean(second) - mean(first); needs two values of each."""
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
    """Two-sided exact p-value of as many rises as falls; McNemar's for right or wrong.

    What did not change says nothing: with nothing changed the p-value is 1.
    """
    rises = sum(difference > 0 for difference in differences)
    falls = sum(difference < 0 for difference in differences)
    return min(1.0, 2 * float(bdtr(min(rises, falls), rises + falls, 0.5)))


def _squared_error(values: Sequence[float]) -> float:
    return float(np.var(values, ddof=1)) / len(values)


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, 0.975))
