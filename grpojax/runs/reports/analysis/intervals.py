"""95% confidence intervals of differences and means, and the exact sign test."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, stdtrit

from ...evaluation.statistics import Measure, wilson


Interval = tuple[float, float]


def newcombe(before: Measure, after: Measure) -> Interval:
    """Newcombe's hybrid score interval of the difference of two proportions.

        lower = d - sqrt((p₂ - l₂)² + (u₁ - p₁)²)
        upper = d + sqrt((u₂ - p₂)² + (p₁ - l₁)²),   d = p₂ - p₁

    from their Wilson intervals (l, u), for independent samples.

    See "Interval estimation for the difference between independent proportions",
    Newcombe (1998), method 10.
    """
    (p1, _, (l1, u1)), (p2, _, (l2, u2)) = before, after
    down, up = math.hypot(p2 - l2, u1 - p1), math.hypot(u2 - p2, p1 - l1)
    return p2 - p1 - down, p2 - p1 + up


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Student's 95% t-interval of a mean; `None` for fewer than two values."""
    if len(values) < 2:
        return None
    return _t_interval(values, _squared_error(values), float(len(values) - 1))


def share_interval(values: Sequence[float]) -> Interval | None:
    """The 95% interval of a mean of shares, such as accuracies, within 0 and 1.

    Wilson's, with Student's quantile for z and the number of trials that the spread of
    the values implies:

        n = p (1 - p) / (s² / m)     m values, mean p, variance s² with m - 1 below

    **Returns:** the lower and the upper end; `None` for fewer than two values.

    See "Comparative Study of Confidence Intervals for Proportions in Complex Sample
    Surveys", Franco et al. (2019).
    """
    if len(values) < 2:
        return None
    p, error = float(np.mean(values)), _squared_error(values)
    if error == 0:
        return p, p
    n = p * (1 - p) / error
    return wilson(min(p * n, n), n, float(stdtrit(len(values) - 1, 0.975)))


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
    return _t_interval([difference], total, freedom)


def sign_test(differences: Sequence[float]) -> float:
    """Two-sided exact p-value of the sign test; McNemar's test for differences of 0/1.

    Zero differences are ignored; if all are zero the p-value is 1.
    """
    rises = sum(difference > 0 for difference in differences)
    falls = sum(difference < 0 for difference in differences)
    return min(1.0, 2 * float(bdtr(min(rises, falls), rises + falls, 0.5)))


def _squared_error(values: Sequence[float]) -> float:
    return float(np.var(values, ddof=1)) / len(values)


def _t_interval(
    values: Sequence[float], squared_error: float, freedom: float
) -> Interval:
    mean = float(np.mean(values))
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(squared_error)
    return mean - half, mean + half
