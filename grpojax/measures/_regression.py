"""Measures of predicted numbers and of predicted changes; NaN where none exists."""

import numpy as np
from jaxtyping import Float, Int


Numbers = Float[np.ndarray, " n"]

_SMOOTHING = 1e-9  # Of a histogram's bins, so that no logarithm is infinite.


def mean_absolute_error(truth: Numbers, predicted: Numbers) -> float:
    """`mean |predicted - truth|`; NaN of nothing."""
    return float(np.mean(np.abs(predicted - truth))) if len(truth) else np.nan


def root_mean_squared_error(truth: Numbers, predicted: Numbers) -> float:
    """`sqrt(mean (predicted - truth)²)`; NaN of nothing."""
    return float(np.sqrt(np.mean((predicted - truth) ** 2))) if len(truth) else np.nan


def r_squared(truth: Numbers, predicted: Numbers) -> float:
    """`1 - sum (predicted - truth)² / sum (truth - mean)²`.

    NaN of fewer than two numbers, or if they are all the same.
    """
    if len(truth) < 2 or np.ptp(truth) == 0:
        return np.nan
    spread = np.sum((truth - np.mean(truth)) ** 2)
    return float(1 - np.sum((predicted - truth) ** 2) / spread)


def directions(
    change: Float[np.ndarray, "*shape"], tolerance: float = 1e-6
) -> Int[np.ndarray, "*shape"]:
    """-1, 0 or 1 for a fall, no change and a rise; at most `tolerance` is none."""
    rises = (change > tolerance).astype(np.int64)
    return rises - (change < -tolerance).astype(np.int64)


def direction_accuracy(
    truth: Numbers, predicted: Numbers, tolerance: float = 1e-6
) -> float:
    """The share of changes whose direction is predicted; NaN of nothing."""
    same = directions(truth, tolerance) == directions(predicted, tolerance)
    return float(np.mean(same)) if len(truth) else np.nan


def calibration_line(truth: Numbers, predicted: Numbers) -> tuple[float, float]:
    """Slope and intercept of the least-squares line `truth ~ slope predicted + c`.

    NaN of fewer than two numbers, or if all predictions are the same. A slope below 1
    says that predicted changes are too large.
    """
    if len(truth) < 2 or np.ptp(predicted) == 0:
        return np.nan, np.nan
    away = predicted - np.mean(predicted)
    slope = float(np.sum(away * (truth - np.mean(truth))) / np.sum(away**2))
    return slope, float(np.mean(truth) - slope * np.mean(predicted))


def calibration_error(truth: Numbers, predicted: Numbers, bins: int = 10) -> float:
    """The expected calibration error over bins of equally many predictions.

        sum_k n_k |mean predicted_k - mean truth_k| / n

    with bins between quantiles of the predictions, equal ones in one bin; NaN of
    nothing.

    **Arguments:**

    - `truth`, `predicted`: changes.
    - `bins`: at most how many.
    """
    n = len(truth)
    if n == 0:
        return np.nan
    edges = np.quantile(predicted, np.linspace(0, 1, min(bins, n) + 1))
    inner = np.unique(edges)[1:-1]
    place = np.searchsorted(inner, predicted, side="right")
    gaps = np.bincount(place, predicted - truth)
    return float(np.sum(np.abs(gaps)) / n)


def kl_of_changes(truth: Numbers, predicted: Numbers) -> float:
    """The divergence KL(truth || predicted) of histograms of changes, in nats.

    They have `max(5, min(20, 2 n))` bins over the joint range, and 1e-9 is added to
    each bin's count; 0 if all changes are the same, NaN of nothing.
    """
    n = len(truth)
    if n == 0:
        return np.nan
    both = np.concatenate([truth, predicted])
    low, high = float(np.min(both)), float(np.max(both))
    if low == high:
        return 0.0
    bins = max(5, min(20, 2 * n))
    counts = [np.histogram(x, bins, (low, high))[0] for x in (truth, predicted)]
    p, q = ((x + _SMOOTHING) / np.sum(x + _SMOOTHING) for x in counts)
    return float(np.sum(p * np.log(p / q)))
