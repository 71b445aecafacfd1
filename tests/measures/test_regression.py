"""Measures of numbers equal an oracle that is written as their definitions are."""

import math

import numpy as np
import pytest

from grpojax import measures


def cases():
    """1,000 vectors of all sizes: random, with ties, constant, and short ones."""
    draw = np.random.default_rng(0)
    for number in range(1000):
        n = [0, 1, 2, 3, 7, 12, 40, 101][number % 8]
        truth, predicted = draw.normal(size=(2, n))
        kind = number // 8 % 5
        if kind == 1:
            truth, predicted = np.round(truth, 1), np.round(predicted, 1)
        elif kind == 2:
            predicted = np.full(n, 0.25)
        elif kind == 3:
            truth = np.full(n, -0.5)
        elif kind == 4:
            truth = predicted = np.full(n, 0.0)
        yield truth, predicted


def mean(values):
    return math.fsum(values) / len(values) if len(values) else math.nan


def line(truth, predicted):
    if len(truth) < 2 or len(set(predicted)) == 1:
        return math.nan, math.nan
    design = np.stack([predicted, np.ones(len(predicted))], axis=1)
    return tuple(np.linalg.lstsq(design, truth, rcond=None)[0])


def r_squared(truth, predicted):
    if len(truth) < 2 or len(set(truth)) == 1:
        return math.nan
    left = [(y - p) ** 2 for y, p in zip(truth, predicted, strict=True)]
    return 1 - math.fsum(left) / math.fsum((y - mean(truth)) ** 2 for y in truth)


def sign(x):
    return 0 if abs(x) <= 1e-6 else math.copysign(1, x)


def error(truth, predicted):
    if len(truth) == 0:
        return math.nan
    count = min(10, len(truth))
    levels = np.linspace(0, 1, count + 1)  # Levels of other bits are other bins.
    edges = sorted({np.quantile(predicted, level) for level in levels})
    bins = {}
    for y, p in zip(truth, predicted, strict=True):
        place = sum(p >= edge for edge in edges[1:-1])
        bins.setdefault(place, []).append((y, p))
    return math.fsum(
        len(pairs) * abs(mean([p for _, p in pairs]) - mean([y for y, _ in pairs]))
        for pairs in bins.values()
    ) / len(truth)


def divergence(truth, predicted):
    if len(truth) == 0:
        return math.nan
    low, high = min(*truth, *predicted), max(*truth, *predicted)
    if low == high:
        return 0.0
    bins = max(5, min(20, 2 * len(truth)))
    edges = np.linspace(low, high, bins + 1)

    def shares(values):
        counts = [1e-9] * bins
        for value in values:
            counts[min(sum(value >= edge for edge in edges[1:]), bins - 1)] += 1
        return [x / math.fsum(counts) for x in counts]

    pairs = zip(shares(truth), shares(predicted), strict=True)
    return math.fsum(p * math.log(p / q) for p, q in pairs)


ORACLES = {
    "mean_absolute_error": lambda y, p: mean(np.abs(y - p)),
    "root_mean_squared_error": lambda y, p: math.sqrt(mean((y - p) ** 2)),
    "r_squared": r_squared,
    "direction_accuracy": lambda y, p: mean(
        [sign(a) == sign(b) for a, b in zip(y, p, strict=True)]
    ),
    "calibration_line": line,
    "calibration_error": error,
    "kl_of_changes": divergence,
}


@pytest.mark.parametrize("name", ORACLES)
def test_equals_its_oracle(name):
    known = 0
    for truth, predicted in cases():
        found = getattr(measures, name)(truth, predicted)
        expected = ORACLES[name](truth, predicted)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
        known += np.all(np.isfinite(expected))
    assert known > 300


def test_directions():
    changes = np.array([-0.5, -1e-7, 0, 1e-7, 0.02])
    assert measures.directions(changes).tolist() == [-1, 0, 0, 0, 1]
    assert measures.directions(changes, 0.02).tolist() == [-1, 0, 0, 0, 0]


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    draw, hits = np.random.default_rng(1), 0
    for seed in range(200):
        sample = draw.normal(3.0, 2.0, 60)
        found = measures.bootstrap(np.std, sample, seed=seed)
        assert found is not None
        low, high = found.interval
        hits += low <= 2.0 <= high
    assert 0.85 < hits / 200 <= 0.99


def test_the_bootstrap_keeps_samples_of_a_problem_together():
    one = np.arange(40.0)
    many = np.repeat(one[:, None], 5, axis=1)
    alone = measures.bootstrap(np.mean, one)
    assert measures.bootstrap(np.mean, many) == alone
    assert measures.bootstrap(np.mean, one, seed=1) != alone
    single = measures.bootstrap(np.mean, one[3:4])
    assert single == measures.Measure(3.0, 1, (-math.inf, math.inf))
    assert measures.bootstrap(lambda _: math.nan, one) is None
