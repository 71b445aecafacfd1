"""Evaluations of a run, as `evaluations.jsonl` or an older `summary.json` has them."""

import dataclasses
from collections.abc import Mapping, Sequence

from ...evaluation.statistics import Measure, wilson
from ...io.jsonl import Record
from ...io.records import finite_float


_UNRECORDED = "not recorded"


@dataclasses.dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation of a policy on a data set.

    **Fields:**

    - `step`: the training step it was made after; 0 is before training.
    - `split`, `mode`, `temperature`: of the problems and of the sampler.
    - `problems`, `samples`: how many problems, and completions of each.
    - `accuracy`: its n counts completions.
    - `metrics`, `baselines`: by name.
    """

    step: int
    split: str
    mode: str
    temperature: float | None
    problems: int | None
    samples: int | None
    accuracy: Measure
    metrics: dict[str, Measure]
    baselines: dict[str, Measure]

    @property
    def series(self) -> tuple[str, str, float | None]:
        """Split, mode and temperature: evaluations that form one curve."""
        return self.split, self.mode, self.temperature

    @property
    def protocol(self) -> tuple[object, ...]:
        """`series`, problems, samples and n: equal where evaluations are comparable."""
        return (*self.series, self.problems, self.samples, self.accuracy.n)

    @property
    def label(self) -> str:
        """Split, mode and temperature in words."""
        unnamed = self.split in ("held_out", _UNRECORDED)
        label = "held out" if unnamed else self.split
        if self.mode != _UNRECORDED:
            label += f", {self.mode}"
        if self.mode == "sampled" and self.temperature is not None:
            label += f" at temperature {self.temperature:g}"
        return label

    @property
    def measures(self) -> dict[str, Measure]:
        """Every number: the accuracy, the metrics and the baselines."""
        baselines = {f"baseline {name}": x for name, x in self.baselines.items()}
        return {"accuracy": self.accuracy, **self.metrics, **baselines}


def by_series(
    evaluations: Sequence[EvaluationRecord],
) -> dict[tuple, list[EvaluationRecord]]:
    """Evaluations that form one curve, in order."""
    series: dict[tuple, list[EvaluationRecord]] = {}
    for evaluation in evaluations:
        series.setdefault(evaluation.series, []).append(evaluation)
    return series


def parse_measure(record: object) -> Measure | None:
    """A `{"value", "n", "interval"}`, with Wilson's interval where none is recorded."""
    if not isinstance(record, Mapping):
        return None
    value, n = finite_float(record.get("value")), finite_float(record.get("n"))
    if value is None or n is None or not 0 <= value <= 1 or n < 0:
        return None
    interval = record.get("interval")
    ends = [finite_float(x) for x in interval] if isinstance(interval, Sequence) else []
    low, high = ends if len(ends) == 2 else (None, None)
    if low is None or high is None:
        low, high = wilson(round(value * n), int(n))
    return Measure(value, int(n), (low, high))


def parse_evaluation(record: Record) -> EvaluationRecord:
    """A line of `evaluations.jsonl`.

    **Raises:** `ValueError` without step, accuracy or n.
    """
    step = _count(record.get("step"))
    accuracy = parse_measure({**record, "value": record.get("accuracy")})
    if step is None or accuracy is None:
        raise ValueError(
            "An evaluation has a step, an accuracy in [0, 1] and n. Received "
            f"{record!r:.80}: remove that line."
        )
    return EvaluationRecord(
        step=step,
        split=str(record.get("split", _UNRECORDED)),
        mode=str(record.get("mode", _UNRECORDED)),
        temperature=finite_float(record.get("temperature")),
        problems=_count(record.get("problems")),
        samples=_count(record.get("samples")),
        accuracy=accuracy,
        metrics=_measures(record.get("metrics")),
        baselines=_measures(record.get("baselines")),
    )


def _measures(records: object) -> dict[str, Measure]:
    if not isinstance(records, Mapping):
        return {}
    measures = {str(name): parse_measure(record) for name, record in records.items()}
    return {name: measure for name, measure in measures.items() if measure is not None}


def _count(value: object) -> int | None:
    number = finite_float(value)
    return None if number is None else int(number)


def evaluations_of_summary(summary: Record) -> list[EvaluationRecord]:
    """Before and after training, of a run that kept no `evaluations.jsonl`."""
    evaluations = []
    for when, step in (("before", 0), ("after", _count(summary.get("steps")))):
        record: Record = {
            "step": step,
            "accuracy": summary.get(f"accuracy_{when}"),
            "interval": summary.get(f"ci95_{when}"),
            "n": summary.get("n_eval"),
        }
        known = parse_measure({**record, "value": record["accuracy"]}) is not None
        if known and (when == "before" or step):
            evaluations.append(parse_evaluation(record))
    return evaluations
