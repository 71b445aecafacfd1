"""Accuracy statistics over sampled completions, with confidence intervals.

A problem's score is the share of its samples that are right, or a chance estimated from
them, or the mean of their rewards, and the mean over problems is what is reported.
"""

import collections
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from ...measures import (
    mean_over_problems as mean_over_problems,
    mean_reward as mean_reward,
    Measure as Measure,
    wilson as wilson,
)


Answer = int | str | None
"""What a sample answers; `None` if it gives no answer."""


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


def accuracies_by_task(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The accuracy of each task of a mixture in a record, as a summary has them."""
    return {
        name.removeprefix("accuracy/"): {"accuracy": x["value"], "ci95": x["interval"]}
        for name, x in record["metrics"].items()
        if name.startswith("accuracy/")
    }


def correct_metrics(
    correct: Bool[np.ndarray, "problem sample"],
    answers: Sequence[Sequence[Answer]],
    gold: Sequence[Answer],
    judged: Bool[np.ndarray, " problem"],
) -> dict[str, Measure]:
    """`pass@k`, `mean@K` and `maj@K` of those judged; see `EvaluationResult`."""
    samples, judged = correct.shape[1], np.flatnonzero(judged)
    correct = correct[judged]
    gold = [gold[problem] for problem in judged]
    answers = [answers[problem] for problem in judged]
    counts = np.sum(correct, axis=1).tolist()
    metrics = {
        f"pass@{k}": mean_over_problems(
            [pass_at_k(samples, c, k) for c in counts],
            # As many groups of k have no sample in common.
            trials=samples // k,
        )
        for k in pass_sizes(samples)
    }
    metrics[f"mean@{samples}"] = mean_over_problems(
        [c / samples for c in counts], trials=samples
    )
    votes = None
    if None not in gold:
        votes = map(majority, answers, gold)
    elif any(answer is not None for row in answers for answer in row):
        votes = map(vote, answers, correct.tolist())
    if votes is not None:
        metrics[f"maj@{samples}"] = mean_over_problems(list(votes))
    return metrics


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
