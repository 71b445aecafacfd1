"""Means over problems and other statistics, with their 95% intervals."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped
from scipy.special import stdtrit


class Measure(NamedTuple):
    """A mean over problems.

    **Fields:**

    - `value`: the mean.
    - `n`: over how many problems.
    - `interval`: its 95% interval; see `mean_over_problems`.
    """

    value: float
    n: int
    interval: tuple[float, float]


def wilson(
    successes: int | float, n: int | float, z: float = 1.959963984540054
) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

        center = (p + z²/2n) / (1 + z²/n)
        half   = z sqrt(p (1 - p) / n + z²/4n²) / (1 + z²/n)

    Exact at the edges: no success has the lower end 0, nothing but successes the upper
    end 1, and of no trials nothing is known: (0, 1).

    **Arguments:**

    - `successes`: how many of the trials succeeded, p = successes / n.
    - `n`: how many trials there were; a fraction for an effective number.
    - `z`: standard deviations to each side; the default is for 95%.

    **Returns:** the lower and the upper end.

    **Raises:** `ValueError` unless 0 <= successes <= n.

    !!! example

        ```python
        wilson(5, 10)  # (0.2366, 0.7634)
        ```
    """
    if not 0 <= successes <= n:
        raise ValueError(
            "wilson(successes, n) needs 0 <= successes <= n. Received "
            f"successes={successes}, n={n}."
        )
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    scale = 1 + z**2 / n
    center = (p + z**2 / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / scale
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return low, high


def mean_over_problems(scores: Sequence[float], trials: int = 1) -> Measure:
    """Mean score over problems, with its 95% confidence interval.

    The interval is Wilson's with the effective number of trials that the spread of the
    scores between problems implies,

        n = p (1 - p) / (s² / m)     m problems, mean p, variance s² with m - 1 below

    held between m and `trials` · m. Samples of one problem are alike, so a count of
    samples for n would promise too much, and a count of problems too little. Of scores
    that are all 0 or 1, such as one sample's of each problem, n is m: the interval is
    Wilson's of a plain proportion. Of few problems it is rough, as their variance is.

    **Arguments:**

    - `scores`: one for each problem, in [0, 1].
    - `trials`: independent trials behind each score, the most that n can count.

    **Raises:** `ValueError` without scores, or for one outside [0, 1].

    See "Comparative Study of Confidence Intervals for Proportions in Complex Sample
    Surveys", Franco et al. (2019), for Wilson's interval of clustered samples by way of
    an effective number, and "Adding Error Bars to Evals", Miller (arXiv:2411.00640),
    for problems as the clusters.

    !!! example

        ```python
        mean_over_problems([1.0, 0.0, 0.5, 0.5], trials=2).value  # 0.5
        ```
    """
    m = len(scores)
    if m == 0 or not all(0 <= score <= 1 for score in scores):
        raise ValueError(
            "mean_over_problems(scores) needs a score in [0, 1] for at least one "
            f"problem. Received {m} scores"
            + (f" from {min(scores)} to {max(scores)}." if m else ".")
        )
    total = math.fsum(scores)
    p = total / m
    squares = math.fsum((score - p) ** 2 for score in scores)
    n = float(m)
    if m > 1 and 0 < total < m:
        most = float(m * trials)
        n = most if squares == 0 else p * (1 - p) * m * (m - 1) / squares
        n = min(max(n, float(m)), most)
    return Measure(p, m, wilson(min(total * n / m, n), n))


def mean_reward(rewards: Sequence[Sequence[float]]) -> Measure | None:
    """Mean reward over problems, with its 95% confidence interval.

    The interval is that of `mean_over_problems` if all rewards are in [0, 1], else
    Student's t-interval over the problems' means; that of one problem is unbounded.

    **Arguments:**

    - `rewards`: of each problem's samples; NaN where none applies.

    **Returns:** the mean over the problems with a reward; `None` if there are none.

    !!! example

        ```python
        mean_reward([[2.0, 0.0], [3.0, 3.0]]).value  # 2.0
        ```
    """
    known = [[x for x in row if not math.isnan(x)] for row in rewards]
    known = [row for row in known if row]
    if not known:
        return None
    scores = [math.fsum(row) / len(row) for row in known]
    if all(0 <= x <= 1 for row in known for x in row):
        return mean_over_problems(scores, trials=max(map(len, known)))
    m = len(scores)
    mean = math.fsum(scores) / m
    if m == 1:
        return Measure(mean, m, (-math.inf, math.inf))
    squares = math.fsum((score - mean) ** 2 for score in scores)
    half = float(stdtrit(m - 1, 0.975)) * math.sqrt(squares / (m * (m - 1)))
    return Measure(mean, m, (mean - half, mean + half))


def bootstrap(
    statistic: Callable[..., float],
    *columns: Shaped[np.ndarray, "problem ..."],
    resamples: int = 200,
    seed: int = 0,
) -> Measure | None:
    """A statistic of problems, with its 95% interval by the bootstrap.

    The ends are the quantiles 2.5% and 97.5% of the statistic of as many problems,
    drawn with replacement; samples of one problem stay together. That of one problem is
    unbounded.

    **Arguments:**

    - `statistic`: of the columns; NaN where it does not exist.
    - `columns`: arrays with one entry, or one row of samples, for each problem.
    - `resamples`: how often problems are drawn.
    - `seed`: of the draws.

    **Returns:** the statistic; `None` if it does not exist.

    See "An Introduction to the Bootstrap", Efron and Tibshirani (1993), chapter 13.

    !!! example

        ```python
        bootstrap(np.median, np.array([1.0, 2.0, 4.0])).value  # 2.0
        ```
    """
    n = len(columns[0])
    value = float(statistic(*columns)) if n else math.nan
    if math.isnan(value):
        return None
    if n == 1:
        return Measure(value, n, (-math.inf, math.inf))
    draws = np.random.default_rng(seed).integers(0, n, (resamples, n))
    again = np.array([statistic(*(x[rows] for x in columns)) for rows in draws])
    low, high = np.nanquantile(again, [0.025, 0.975]).tolist()
    return Measure(value, n, (low, high))
