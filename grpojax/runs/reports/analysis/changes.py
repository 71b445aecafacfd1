"""Evaluations before and after training, compared only under the same protocol."""

import dataclasses
from typing import NamedTuple

import numpy as np

from ...evaluation import predictions
from ...io.integrity.repair import flaw_of_predictions
from ...io.run_directory import EVALUATIONS, predictions_file
from ..read.evaluations import by_series, EvaluationRecord
from ..read.run import Run
from .intervals import Interval, mean_interval, newcombe, sign_test


@dataclasses.dataclass(frozen=True)
class Change:
    """Two evaluations of the same protocol, and the interval of their difference.

    **Fields:**

    - `before`, `after`: the evaluations at step 0 and at the last evaluated step.
    - `interval`: 95%, of the measure after minus before.
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
        """The measure after minus before."""
        return self.after.measure.value - self.before.measure.value

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
            "Evaluations of different names, splits, modes or temperatures are never "
            "compared with each other."
        )
    if EVALUATIONS in run.unproven:
        refusals.append("What was recorded of evaluations is not as it was written.")
    elif not series:
        refusals.append("No evaluation was recorded.")
    return Changes(measured, refusals)


def _size(evaluation: EvaluationRecord) -> str:
    problems, samples = evaluation.problems, evaluation.samples
    size = "problems not recorded"
    if problems is not None and samples is not None:
        size = f"{problems:,} problems x {samples}"
    return f"n = {evaluation.measure.n:,} ({size})"


def _change(run: Run, before: EvaluationRecord, after: EvaluationRecord) -> Change:
    differences = _paired_differences(run, before, after)
    interval = mean_interval(differences)
    if interval is not None:
        if after.is_share:
            interval = max(interval[0], -1.0), min(interval[1], 1.0)
        method = f"paired t-interval over {len(differences):,} problems"
        return Change(before, after, interval, sign_test(differences), method)
    unpaired = newcombe(before.measure, after.measure)
    return Change(before, after, unpaired, None, "Newcombe's interval, unpaired")


def _paired_differences(
    run: Run, before: EvaluationRecord, after: EvaluationRecord
) -> list[float]:
    """The change of each problem's score.

    Empty unless the predictions of both evaluations are complete, agree with the
    recorded measures, and are of the same problems.
    """
    first, last = (_score_by_problem(run, x) for x in (before, after))
    if first.keys() != last.keys():
        return []
    return [last[key] - first[key] for key in sorted(first)]


def _score_by_problem(
    run: Run, evaluation: EvaluationRecord
) -> dict[tuple[int, str], float]:
    """The mean of each problem and prompt; empty if unlike what is recorded."""
    recorded, key = evaluation.measure, "correct" if evaluation.is_share else "total"
    file = predictions_file(run.path, evaluation.step, evaluation.mode, evaluation.name)
    if flaw_of_predictions(file, evaluation.predictions, evaluation.step) is not None:
        return {}
    try:
        known = {
            (record["problem"], record["prompt"]): [
                float(sample[key])
                for sample in record["samples"]
                if sample[key] is not None
            ]
            for record in predictions.read(file).records
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # Missing, damaged, or of another format: nothing to pair.
    scores = {place: float(np.mean(row)) for place, row in known.items() if row}
    # The n of a reward counts problems.
    counted = sum(map(len, known.values())) if evaluation.is_share else len(scores)
    if not scores or counted != recorded.n:
        return {}
    distance = abs(float(np.mean(list(scores.values()))) - recorded.value)
    return scores if distance <= 1e-6 * max(1.0, abs(recorded.value)) else {}
