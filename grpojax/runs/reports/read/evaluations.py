"""Evaluations of a run, as `evaluations.jsonl` or an older `summary.json` has them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ...evaluation.statistics import Measure, wilson
from ...io.integrity.checksums import Checksum, parse_checksum
from ...io.jsonl import Record
from ...io.records import finite_float
from ...io.run_directory import DEFAULT_EVALUATION


_UNRECORDED = "not recorded"


@dataclasses.dataclass(frozen=True)
class EvaluationRecord:
    """One evaluation of a policy on a data set.

    **Fields:**

    - `step`: the training step it was made after; 0 is before training.
    - `name`, `split`: of the evaluation, and of its problems.
    - `mode`, `temperature`, `truncation`: of the sampler.
    - `problems`, `samples`: how many problems, and completions of each.
    - `quantity`: what `measure` is: `"accuracy"`, whose n counts completions, or
        `"mean reward"` where nothing says which answers are right.
    - `metrics`, `baselines`: by name.
    - `predictions`: the checksum of their file, if it was recorded.
    """

    step: int
    name: str
    split: str
    mode: str
    temperature: float | None
    truncation: tuple[float | None, ...]
    problems: int | None
    samples: int | None
    quantity: str
    measure: Measure
    metrics: dict[str, Measure]
    baselines: dict[str, Measure]
    predictions: Checksum | None

    @property
    def series(self) -> tuple[object, ...]:
        """Name, split, mode and temperature: evaluations that form one curve."""
        return self.name, self.split, self.mode, self.temperature

    @property
    def protocol(self) -> tuple[object, ...]:
        """All but the step and the numbers: equal where evaluations are comparable."""
        sampling = *self.truncation, self.problems, self.samples
        return (*self.series, *sampling, self.quantity, self.measure.n)

    @property
    def label(self) -> str:
        """Name, mode and temperature in words."""
        unnamed = self.name in (DEFAULT_EVALUATION, _UNRECORDED)
        label = "held out" if unnamed else self.name
        if self.mode != _UNRECORDED:
            label += f", {self.mode}"
        if self.mode == "sampled" and self.temperature is not None:
            label += f" at temperature {self.temperature:g}"
        return label

    @property
    def is_share(self) -> bool:
        """Whether the measure is a share, and no reward."""
        return self.quantity == "accuracy"

    @property
    def measures(self) -> dict[str, Measure]:
        """The measure and those metrics that are not the same by definition."""
        same = {"reward"} if not self.is_share else {"pass@1", f"mean@{self.samples}"}
        if self.samples == 1 and self.metrics.get("maj@1") == self.metrics.get(
            "pass@1"
        ):
            same |= {"maj@1"}
        others = {x: y for x, y in self.metrics.items() if x not in same}
        return {self.quantity: self.measure, **others}


def by_series(
    evaluations: Sequence[EvaluationRecord],
) -> dict[tuple, list[EvaluationRecord]]:
    """Evaluations that form one curve, in order."""
    series: dict[tuple, list[EvaluationRecord]] = {}
    for evaluation in evaluations:
        series.setdefault(evaluation.series, []).append(evaluation)
    return series


def table_rows(
    evaluations: Sequence[EvaluationRecord],
) -> list[tuple[str, str, str, Measure]]:
    """Step, label, name and value of every fact about evaluations, each once.

    A baseline depends on the problems alone: it has one row for all steps.
    """
    rows = [
        (str(evaluation.step), evaluation.label, name, measure)
        for evaluation in evaluations
        for name, measure in evaluation.measures.items()
    ]
    baselines = {
        (evaluation.label, f"baseline {name}", measure): None
        for evaluation in evaluations
        for name, measure in evaluation.baselines.items()
    }
    return rows + [("all", *baseline) for baseline in baselines]


def parse_measure(record: object, *, is_share: bool = True) -> Measure | None:
    """A `{"value", "n", "interval"}`, with Wilson's interval where none is recorded.

    A reward, which is no share of n, has an unbounded one then.
    """
    if not isinstance(record, Mapping):
        return None
    value, n = finite_float(record.get("value")), finite_float(record.get("n"))
    if value is None or n is None or n < 0 or (is_share and not 0 <= value <= 1):
        return None
    interval = record.get("interval")
    ends = [finite_float(x) for x in interval] if isinstance(interval, Sequence) else []
    low, high = ends if len(ends) == 2 else (None, None)
    if low is None or high is None:
        low, high = -math.inf, math.inf
        if is_share:
            low, high = wilson(round(value * n), int(n))
    return Measure(value, int(n), (low, high))


def parse_evaluation(record: Record) -> EvaluationRecord:
    """A line of `evaluations.jsonl`.

    **Raises:** `ValueError` without step, n, and an accuracy or a mean reward.
    """
    step, metrics = _count(record.get("step")), _measures(record.get("metrics"))
    accuracy = parse_measure({**record, "value": record.get("accuracy")})
    measure = metrics.get("reward") if accuracy is None else accuracy
    if step is None or measure is None:
        raise ValueError(
            "An evaluation has a step, an accuracy in [0, 1] and n. Received "
            f"{record!r:.80}: remove that line."
        )
    split = str(record.get("split", _UNRECORDED))
    truncation = (record.get(name) for name in ("top_k", "top_p", "min_p"))
    return EvaluationRecord(
        step=step,
        name=str(record.get("name", split)),
        split=split,
        mode=str(record.get("mode", _UNRECORDED)),
        temperature=finite_float(record.get("temperature")),
        truncation=tuple(map(finite_float, truncation)),
        problems=_count(record.get("problems")),
        samples=_count(record.get("samples")),
        quantity="mean reward" if accuracy is None else "accuracy",
        measure=measure,
        metrics=metrics,
        baselines=_measures(record.get("baselines")),
        predictions=parse_checksum(record.get("predictions")),
    )


def _measures(records: object) -> dict[str, Measure]:
    if not isinstance(records, Mapping):
        return {}
    measures = {
        str(name): parse_measure(record, is_share=_is_share(str(name), record))
        for name, record in records.items()
    }
    return {name: measure for name, measure in measures.items() if measure is not None}


def _is_share(name: str, record: object) -> bool:
    """Whether a measure is a share; rewards are none, and what else is not says so."""
    given = record.get("share") if isinstance(record, Mapping) else None
    return given is not False and not name.startswith("reward")


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
