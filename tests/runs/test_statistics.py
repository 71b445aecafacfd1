import pytest
from hypothesis import given, settings, strategies as st

from grpojax.runs.statistics import wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # From the formula by hand, and as published with Wilson's method.
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
        (81, 263, 0.2553, 0.3662),
        (0, 1319, 0.0, 0.0029),
    ],
)
def test_known_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_nothing_is_known_without_trials():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(-1, 10), (11, 10), (0, -1)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match=f"successes={successes}, n={n}"):
        wilson(successes, n)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 10**6))
def test_laws(data, n):
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    # The ends solve (p - x)² = z² x (1 - x) / n, which is what defines them.
    p = successes / n
    for end in (low, high):
        if 0 < end < 1:
            assert (p - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / n, 1e-3)
    mirrored = wilson(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)
