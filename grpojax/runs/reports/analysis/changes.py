"""Accuracy before and after training, compared only under the same protocol."""

import dataclasses

import numpy as np

from ...evaluation import predictions
from ..read import EvaluationRecord, Run
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


@dataclasses.dataclass(frozen=True)
class Changes:
    """The changes of a run.

    **Fields:**

    - `measured`: one for each series of evaluations that could be compared.
    - `refusals`: why the others could not, a sentence each.
    """

    measured: list[Change]
    refusals: list[str]


def measure_changes(run: Run) -> Changes:
    """Compares the first and the last evaluation of each series of a run."""
    series: dict[tuple, list[EvaluationRecord]] = {}
    for evaluation in run.evaluations:
        series.setdefault(evaluation.series, []).append(evaluation)
    measured, refusals = [], []
    for evaluations in series.values():
        by_step = {evaluation.step: evaluation for evaluation in evaluations}
        last = by_step[max(by_step)]
        name = last.label.capitalize()
        if 0 not in by_step:
            refusals.append(
                f"{name}: not evaluated before training, so there is no baseline to "
                "compare with."
            )
        elif last.step == 0:
            refusals.append(f"{name}: not evaluated after step 0.")
        elif by_step[0].protocol != last.protocol:
            refusals.append(
                f"{name}: cannot compare. Before: {_size(by_step[0])}; after: "
                f"{_size(last)}."
            )
        else:
            measured.append(_change(run, by_step[0], last))
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
    differences = paired_differences(run, before, after)
    interval = None if differences is None else mean_interval(differences)
    if differences is not None and interval is not None:
        method = f"paired t-interval over {len(differences):,} problems"
        return Change(before, after, interval, sign_test(differences), method)
    unpaired = newcombe(
        before.accuracy.value,
        before.accuracy.interval,
        after.accuracy.value,
        after.accuracy.interval,
    )
    return Change(before, after, unpaired, None, "Newcombe's interval, unpaired")


def paired_differences(
    run: Run, before: EvaluationRecord, after: EvaluationRecord
) -> list[float] | None:
    """The change of each problem's accuracy.

    **Returns:** `None` unless the predictions of both evaluations are complete, agree
    with the recorded accuracies, and are of the same problems.
    """
    accuracies = []
    for evaluation in (before, after):
        found = _accuracy_by_problem(run, evaluation)
        n = sum(samples for _, samples in found.values())
        correct = sum(accuracy * samples for accuracy, samples in found.values())
        if n == 0 or n != evaluation.accuracy.n:
            return None
        if abs(correct / n - evaluation.accuracy.value) > 1e-6:
            return None
        accuracies.append({key: accuracy for key, (accuracy, _) in found.items()})
    first, last = accuracies
    if first.keys() != last.keys():
        return None
    return [last[key] - first[key] for key in sorted(first)]


def _accuracy_by_problem(
    run: Run, evaluation: EvaluationRecord
) -> dict[tuple[int, str], tuple[float, int]]:
    """The accuracy and the number of samples of each problem and its prompt."""
    name = f"{evaluation.step}-{evaluation.mode}.jsonl"
    try:
        records = predictions.read(run.path / "predictions" / name).records
        return {
            (record["problem"], record["prompt"]): (
                float(np.mean([sample["correct"] for sample in record["samples"]])),
                len(record["samples"]),
            )
            for record in records
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # Missing, damaged, or of another format: nothing to pair.
