import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import beta, binomtest, hypergeom, sem, t

from grpojax.runs.evaluation.statistics import (
    answer_text,
    majority,
    mean_over_problems,
    mean_reward,
    most_frequent,
    pass_at_k,
    vote,
    wilson,
)


Z = 1.959963984540054


# Wilson's interval


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


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 32, 100, 263, 1319, 10**6])
def test_equals_scipy_on_a_grid(n):
    for successes in sorted(
        {round(n * share / 40) for share in range(41)} | {1, n - 1}
    ):
        theirs = binomtest(successes, n).proportion_ci(method="wilson")
        assert wilson(successes, n) == pytest.approx(
            (theirs.low, theirs.high), abs=1e-12
        )


def test_nothing_is_known_without_trials():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(-1, 10), (11, 10), (0, -1)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match=f"successes={successes}, n={n}"):
        wilson(successes, n)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(1, 10**6))
def test_laws_of_wilson(data, n):
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    # The ends solve (p - x)² = z² x (1 - x) / n, which is what defines them.
    p = successes / n
    for end in (low, high):
        if 0 < end < 1:
            assert (p - end) ** 2 == pytest.approx(Z**2 * end * (1 - end) / n, 1e-3)
    mirrored = wilson(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


# Means over problems


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_of_one_sample_each_it_is_the_proportion_s_own(right):
    measure = mean_over_problems([float(x) for x in right])
    assert measure.value == pytest.approx(sum(right) / len(right))
    assert measure.n == len(right)
    assert measure.interval == wilson(sum(right), len(right))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=2, max_size=60), st.randoms())
def test_samples_count_for_more_than_problems_and_less_than_themselves(counts, draw):
    value, n, (low, high) = mean_over_problems([c / 8 for c in counts], trials=8)
    assert n == len(counts) and 0 <= low <= value <= high <= 1
    width = lambda ends: ends[1] - ends[0]
    narrow, wide = (wilson(value * n, n) for n in (8 * n, n))
    assert width(narrow) - 1e-9 <= high - low <= width(wide) + 1e-9
    draw.shuffle(counts)
    again = mean_over_problems([c / 8 for c in counts], trials=8)
    assert again.interval == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b"), [(0.5, 0.5), (0.2, 0.8), (8, 2)], ids=["wild", "hard", "even"]
)
def test_it_covers_problems_like_these_where_a_count_of_samples_does_not(a, b):
    """A problem's difficulty is drawn, then its samples; how often is the mean held?"""
    draw = np.random.default_rng(0)
    problems, samples, trials = 150, 8, 600
    truth = a / (a + b)
    chance = beta.rvs(a, b, size=(trials, problems), random_state=draw)
    counts = draw.binomial(samples, chance)
    held = {"clusters": 0, "samples": 0}
    for row in counts:
        low, high = mean_over_problems((row / samples).tolist(), samples).interval
        held["clusters"] += low <= truth <= high
        low, high = wilson(int(row.sum()), problems * samples)
        held["samples"] += low <= truth <= high
    # 95% of 600, less three standard errors of such a count.
    assert held["clusters"] / trials >= 0.95 - 3 * (0.95 * 0.05 / trials) ** 0.5
    assert held["samples"] < held["clusters"]
    if a < 1:
        assert held["samples"] / trials < 0.75


@pytest.mark.parametrize("scores", [[], [0.5, 1.5], [-0.1], [float("nan")]])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(ValueError, match=f"Received {len(scores)} scores"):
        mean_over_problems(scores)


# pass@k


def test_pass_at_k_counts_subsets():
    for n in range(1, 9):
        for c in range(n + 1):
            right = [i < c for i in range(n)]
            for k in range(1, n + 1):
                subsets = list(itertools.combinations(right, k))
                share = sum(map(any, subsets)) / len(subsets)
                assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 400))
def test_pass_at_k_equals_its_closed_form(data, n):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    # As in the paper, and as the chance to draw no right one without replacement.
    product = 1 - np.prod(1 - k / np.arange(n - c + 1, n + 1)) if n - c >= k else 1
    assert pass_at_k(n, c, k) == pytest.approx(float(product), abs=1e-9)
    none = hypergeom.pmf(0, n, c, k)
    assert pass_at_k(n, c, k) == pytest.approx(1 - none, abs=1e-9)


def test_pass_at_k_has_no_bias():
    """On average over n samples it is the chance with k, for which k would do."""
    p, n, k = 0.3, 6, 3
    binomial = lambda c: float(np.exp(_log_choose(n, c)) * p**c * (1 - p) ** (n - c))
    mean = sum(binomial(c) * pass_at_k(n, c, k) for c in range(n + 1))
    assert mean == pytest.approx(1 - (1 - p) ** k)


def _log_choose(n: int, c: int) -> float:
    return float(np.sum(np.log(np.arange(c + 1, n + 1) / np.arange(1, n - c + 1))))


@pytest.mark.parametrize("sizes", [(4, 5, 1), (4, -1, 1), (4, 1, 0), (4, 1, 5)])
def test_impossible_samples_are_refused(sizes):
    n, c, k = sizes
    with pytest.raises(ValueError, match=f"Received n={n}, c={c}, k={k}"):
        pass_at_k(n, c, k)


# Votes


@pytest.mark.parametrize(
    ("answers", "gold", "worth"),
    [
        ([7, 8, 7], 7, 1.0),
        ([7, 8, 8], 7, 0.0),
        ([7, 8], 7, 1 / 2),
        ([7, 8, 9, None, None, None], 9, 1 / 3),  # Abstentions do not win.
        ([7, 8, 8, 9, 9], 7, 0.0),
        ([None, None], 7, 0.0),
        ([], 7, 0.0),
        ([None, 7], 7, 1.0),
        (["x", "y", "x"], "x", 1.0),
    ],
)
def test_votes(answers, gold, worth):
    assert majority(answers, gold) == pytest.approx(worth)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([None, 1, 2, 3]), max_size=9), st.integers(1, 4))
def test_a_vote_is_what_drawing_lots_earns(answers, gold):
    voters = [answer for answer in answers if answer is not None]
    modes = [x for x in {*voters} if voters.count(x) == max(map(voters.count, voters))]
    expected = sum(mode == gold for mode in modes) / len(modes) if modes else 0
    assert majority(answers, gold) == pytest.approx(expected)
    mixed = random.Random(0).sample(answers, len(answers))
    assert majority(mixed, gold) == majority(answers, gold)


def test_most_frequent():
    assert most_frequent([3, 1, 1, None, None, None]) == 1
    assert most_frequent([3, 1]) == 3
    assert most_frequent([None]) is None


@given(st.lists(st.sampled_from([7, 8, 9, None]), min_size=1, max_size=6))
def test_a_vote_by_right_answers_is_that_by_the_gold(answers):
    right = [answer == 7 for answer in answers]
    assert vote(answers, right) == majority(answers, 7)


def test_a_vote_is_as_correct_as_the_samples_that_agree_with_it():
    paris, rome = "paris", "rome"
    assert vote([paris, rome, paris], [True, False, True]) == 1.0
    assert vote([paris, rome, rome], [True, False, False]) == 0.0
    assert vote([paris, rome], [True, False]) == 0.5
    assert vote([None, None], [True, True]) == 0.0
    assert vote([paris, paris], [True, False]) == 0.5


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So it is\n#### The  Seine.", "the seine"),
        ("#### 1\n#### B)\nmore", "b)"),
        (r"thus $\boxed{ \frac 1 2 }$.", r"\frac 1 2"),
        ("<answer>\nParis\n</answer> I think", "paris"),
        ("  No MARK here! ", "no mark here"),
        ("", None),
        ("....", None),
    ],
)
def test_the_answer_in_a_text(text, answer):
    assert answer_text(text) == answer


def test_mean_rewards():
    mean, nan = mean_reward, math.nan
    shares = mean([[1.0, 0.0], [0.5, nan]])
    assert shares is not None
    assert shares == mean_over_problems([0.5, 0.5], trials=2)
    rewards = [[2.0, 0.0], [3.0, 3.0], [-1.0, 0.5], [nan, nan]]
    found = mean(rewards)
    assert found is not None and found.n == 3
    scores = [1.0, 3.0, -0.25]
    expected = t.interval(0.95, 2, np.mean(scores), sem(scores))
    assert found.value == pytest.approx(np.mean(scores))
    assert found.interval == pytest.approx(expected)
    alone = mean([[2.0]])
    assert alone is not None and alone.interval == (-math.inf, math.inf)
    assert mean([[nan]]) is None
