"""Accuracy before and after training, compared only under the same protocol."""

import dataclasses
from typing import NamedTuple

import numpy as np

from ...evaluation import predictions
from ..read.evaluations import by_series, EvaluationRecord
from ..read.run import Run
from .intervals import Interval, mean_interval, newcombe, sign_test


@dataclasses.dataclass(frozen=True)
class Change:
    """Two evaluations of the same protocol, and the interval of their difference.

    **Fields:**

    - `before`, `after`: the evaluations at step 0 and at the last evaluated step.
    - `interval`: 95%, of accuracy after minus before.
    - `p_value`: of the sign test, if the problems could be paired.
    - `method`: the name of the interval.
    """

    before: EvaluationRecord
    after: EvaluationRecord
    interval: Interval
    p_value: float | None
    method: str

    @property
    def difference(self) -> float:
        """Accuracy after minus before."""
        return self.after.accuracy.value - self.before.accuracy.value

    @property
    def direction(self) -> int:
        """The sign of a significant change; 0 if the change is not significant.

        With pairs both the interval and the sign test must exclude zero change.
        """
        if self.p_value is not None and self.p_value >= 0.05:
            return 0
        return int(self.interval[0] > 0) - int(self.interval[1] < 0)


class Changes(NamedTuple):
    """The changes of a run, one of each series of evaluations that could be compared.

    `refusals` says why the others could not, a sentence each.
    """

    measured: list[Change]
    refusals: list[str]


def measure_changes(run: Run) -> Changes:
    """Compares the first and the last evaluation of each series of a run."""
    series = by_series(run.evaluations)
    measured, refusals = [], []
    for evaluations in series.values():
        by_step = {evaluation.step: evaluation for evaluation in evaluations}
        first, last = by_step.get(0), by_step[max(by_step)]
        why = None
        if first is None:
            why = (
                "not evaluated before training, so there is no baseline to compare with"
            )
        elif last.step == 0:
            why = "not evaluated after step 0"
        elif first.protocol != last.protocol:
            sizes = f"Before: {_size(first)}; after: {_size(last)}"
            why = f"cannot compare. {sizes}"
        else:
            measured.append(_change(run, first, last))
        if why is not None:
            refusals.append(f"{last.label.capitalize()}: {why}.")
    if not measured and len(series) > 1:
        refusals.append(
            "Evaluations of different splits, modes or temperatures are never compared "
            "with each other."
        )
    if not series:
        refusals.append("No evaluation was recorded.")
    return Changes(measured, refusals)


def _size(evaluation: EvaluationRecord) -> str:
    problems, samples = evaluation.problems, evaluation.samples
    size = "problems not recorded"
    if problems is not None and samples is not None:
        size = f"{problems:,} problems x {samples}"
    return f"n = {evaluation.accuracy.n:,} ({size})"


def _change(run: Run, before: EvaluationRecord, after: EvaluationRecord) -> Change:
    differences = _paired_differences(run, before, after)
    interval = mean_interval(differences)
    if interval is not None:
        method = f"paired t-interval over {len(differences):,} problems"
        return Change(before, after, interval, sign_test(differences), method)
    unpaired = newcombe(before.accuracy, after.accuracy)
    return Change(before, after, unpaired, None, "Newcombe's interval, unpaired")


def _paired_differences(
    run: Run, before: EvaluationRecord, after: EvaluationRecord
) -> list[float]:
    """The change of each problem's accuracy.

    Empty unless the predictions of both evaluations are complete, agree with the
    recorded accuracies, and are of the same problems.
    """
    first, last = (_accuracy_by_problem(run, x) for x in (before, after))
    if first.keys() != last.keys():
        return []
    return [last[key] - first[key] for key in sorted(first)]


def _accuracy_by_problem(
    run: Run, evaluation: EvaluationRecord
) -> dict[tuple[int, str], float]:
    """The accuracy of each problem and prompt; empty if unlike the recorded one."""
    name = f"{evaluation.step}-{evaluation.mode}.jsonl"
    try:
        correct = {
            (record["problem"], record["prompt"]): [
                bool(sample["correct"]) for sample in record["samples"]
            ]
            for record in predictions.read(run.path / "predictions" / name).records
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # Missing, damaged, or of another format: nothing to pair.
    every, recorded = [x for row in correct.values() for x in row], evaluation.accuracy
    if not every or len(every) != recorded.n:
        return {}
    if abs(float(np.mean(every)) - recorded.value) > 1e-6:
        return {}
    return {key: float(np.mean(row)) for key, row in correct.items()}
