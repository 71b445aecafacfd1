"""Accuracy statistics over sampled completions, with confidence intervals.

A problem's score is the share of its samples that are right, or a chance estimated from
them, or the mean of their rewards, and the mean over problems is what is reported.
"""

import collections
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.special import stdtrit


Answer = int | str | None
"""What a sample answers; `None` if it gives no answer."""


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


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased pass@k estimate from n samples, of which c are correct.

        1 - C(n - c, k) / C(n, k)

    It is the share of the k-subsets of the samples that hold a right one, which has no
    bias; `1 - (1 - c/n)^k` has.

    **Raises:** `ValueError` unless 0 <= c <= n and 1 <= k <= n.

    See "Evaluating Large Language Models Trained on Code", Chen et al.
    (arXiv:2107.03374).

    !!! example

        ```python
        pass_at_k(4, 1, 2)  # 0.5
        ```
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(
            "pass_at_k(n, c, k) needs 0 <= c <= n right samples and 1 <= k <= n. "
            f"Received n={n}, c={c}, k={k}."
        )
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def pass_sizes(samples: int) -> list[int]:
    """The k of `pass@k`: powers of two, and the number of samples."""
    powers = [2**i for i in range(samples.bit_length()) if 2**i < samples]
    return [*powers, samples]


def accuracies_by_task(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The accuracy of each task of a mixture in a record, as a summary has them."""
    return {
        name.removeprefix("accuracy/"): {"accuracy": x["value"], "ci95": x["interval"]}
        for name, x in record["metrics"].items()
        if name.startswith("accuracy/")
    }


def measure_names(
    samples: int, *, correct: bool, rewards: Sequence[str] | None, tasks: Sequence[str]
) -> list[str]:
    """The names that `EvaluationResult.measures` may have.

    **Arguments:**

    - `samples`: of each problem.
    - `correct`: whether right answers are known.
    - `rewards`: components of a reward, if there is a total.
    - `tasks`: of a mixture.
    """
    names = []
    if correct:
        names += ["accuracy", *(f"pass@{k}" for k in pass_sizes(samples))]
        names += [f"mean@{samples}", f"maj@{samples}"]
        names += [f"accuracy/{task}" for task in tasks]
    if rewards is not None:
        names += ["reward", *(f"rewards/{name}" for name in rewards)]
        names += [f"reward/{task}" for task in tasks]
    return names


def majority(answers: Sequence[Answer], gold: Answer) -> float:
    """Majority-vote (maj@n) accuracy of one problem's samples, by its right answer.

    !!! example

        ```python
        majority([7, 8, 7, None], 7), majority([7, 8], 7)  # (1.0, 0.5)
        ```
    """
    return vote(answers, [answer == gold for answer in answers])


def vote(answers: Sequence[Answer], correct: Sequence[bool]) -> float:
    """Majority-vote (maj@n) accuracy of one problem's samples.

    The answer that most samples give is the vote's, and as correct as these samples
    are. A sample without an answer does not vote, and a vote without voters is wrong. A
    tie is broken by lot: the mean of those tied, so that the order of the samples does
    not matter.

    **Arguments:**

    - `answers`: of the samples.
    - `correct`: whether a sample's answer is right.

    See "Self-Consistency Improves Chain of Thought Reasoning in Language Models",
    Wang et al. (arXiv:2203.11171).

    !!! example

        ```python
        vote(["paris", "rome", "paris"], [True, False, True])  # 1.0
        ```
    """
    right: dict[Answer, list[bool]] = {}
    for answer, is_right in zip(answers, correct, strict=True):
        if answer is not None:
            right.setdefault(answer, []).append(is_right)
    most = max(map(len, right.values()), default=0)
    tied = [sum(x) / len(x) for x in right.values() if len(x) == most]
    return math.fsum(tied) / len(tied) if tied else 0.0


_MARKS = re.compile(
    r"####([^\n]*)|\\boxed\s*\{([^{}]*)\}|<answer>(.*?)</answer>", re.DOTALL
)


def answer_text(text: str) -> str | None:
    """The answer in a completion, for votes where no environment parses one.

    What follows the last `####`, or is in the last `\\boxed{}` or `<answer>`, else the
    whole text: without case, outer punctuation and repeated spaces. `None` if nothing
    is left.

    !!! example

        ```python
        answer_text("So it is\\n#### The  Seine.")  # "the seine"
        ```
    """
    marked = list(_MARKS.finditer(text))
    if marked:
        text = next(x for x in marked[-1].groups() if x is not None)
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'`$*") or None


def most_frequent(answers: Sequence[Answer]) -> Answer:
    """The answer that most problems have; of several, the one that comes first."""
    known = collections.Counter(answer for answer in answers if answer is not None)
    return known.most_common(1)[0][0] if known else None
