"""Intervals against scipy.stats and a published example."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st

from grpojax.runs.evaluation.statistics import Measure, wilson
from grpojax.runs.reports.analysis import intervals


VALUES = st.lists(
    st.integers(0, 100).map(lambda x: x / 100), min_size=2, max_size=8
).filter(lambda x: len(set(x)) > 1)
MODEST = settings(max_examples=30, deadline=None)


def test_newcombe_gives_the_example_of_its_paper():
    # Newcombe (1998), table II, (a): 56/70 - 48/80, method 10.
    before = Measure(0.6, 80, wilson(48, 80))
    low, high = intervals.newcombe(before, Measure(0.8, 70, wilson(56, 70)))
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


@MODEST
@given(VALUES)
def test_the_interval_of_a_mean_is_students(values):
    expected = scipy.stats.t.interval(
        0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values)
    )
    found = intervals.mean_interval(values)
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=1e-9)


@MODEST
@given(VALUES, VALUES)
def test_the_interval_between_two_means_is_welchs(first, second):
    test = scipy.stats.ttest_ind(second, first, equal_var=False)
    found = intervals.welch(first, second)
    assert found is not None
    np.testing.assert_allclose(found, test.confidence_interval(), atol=1e-9)


def test_one_value_has_no_interval():
    assert intervals.mean_interval([0.5]) is None
    assert intervals.welch([0.5], [0.1, 0.2]) is None


@MODEST
@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=30))
def test_the_sign_test_is_exact(differences):
    rises, falls = differences.count(1), differences.count(-1)
    expected = 1.0
    if rises + falls:
        expected = scipy.stats.binomtest(rises, rises + falls).pvalue
    assert intervals.sign_test(differences) == pytest.approx(expected)


@MODEST
@given(VALUES)
def test_the_interval_of_shares_is_about_students_and_within_0_and_1(values):
    found = intervals.share_interval(values)
    assert found is not None
    low, high = found
    assert 0 <= low < np.mean(values) < high <= 1


def test_the_interval_of_shares():
    assert intervals.share_interval([0.5]) is None
    assert intervals.share_interval([0.25, 0.25]) == (0.25, 0.25)
    near, skewed = [0.5, 0.5001, 0.4999, 0.5], [0.98, 1.0, 0.9]
    students = intervals.mean_interval(near)
    assert intervals.share_interval(near) == pytest.approx(students, abs=1e-6)
    inside, outside = intervals.share_interval(skewed), intervals.mean_interval(skewed)
    assert inside is not None and outside is not None and inside[1] < 1 < outside[1]
