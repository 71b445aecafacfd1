"""What an evaluation found: numbers that come with their n and their interval."""

import dataclasses
from collections.abc import Mapping, Sequence

from ..evaluation.statistics import wilson
from ._intervals import Interval
from ._lines import number, Record


@dataclasses.dataclass(frozen=True)
class Measure:
    """A number, what it was counted on, and its 95% interval."""

    value: float
    n: int
    interval: Interval


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One finished evaluation; `asked` is all that two of them must share."""

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
    def asked(self) -> tuple[object, ...]:
        """Split, mode, temperature, problems, samples and n."""
        return (*self.series, self.problems, self.samples, self.accuracy.n)

    @property
    def series(self) -> tuple[str, str, float | None]:
        """What is drawn as one curve."""
        return self.split, self.mode, self.temperature


def measure(record: object) -> Measure | None:
    """A `{"value", "n", "interval"}`, Wilson's interval where none is given."""
    if not isinstance(record, Mapping):
        return None
    value, n = number(record.get("value")), number(record.get("n"))
    if value is None or n is None or not 0 <= value <= 1 or n < 0:
        return None
    interval = record.get("interval")
    ends = [number(x) for x in interval] if isinstance(interval, Sequence) else []
    low, high = ends if len(ends) == 2 else (None, None)
    if low is None or high is None:
        low, high = wilson(round(value * n), int(n))
    return Measure(value, int(n), (low, high))


def _measures(records: object) -> dict[str, Measure]:
    if not isinstance(records, Mapping):
        return {}
    found = {str(name): measure(record) for name, record in records.items()}
    return {name: one for name, one in found.items() if one is not None}


def _count(value: object) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def parse_evaluation(record: Record) -> Evaluation | None:
    """A line of `evaluations.jsonl`; `None` if it does not say step, accuracy and n."""
    step = _count(record.get("step"))
    accuracy = measure({**record, "value": record.get("accuracy")})
    if step is None or accuracy is None:
        return None
    return Evaluation(
        step=step,
        split=str(record.get("split", "not recorded")),
        mode=str(record.get("mode", "not recorded")),
        temperature=number(record.get("temperature")),
        problems=_count(record.get("problems")),
        samples=_count(record.get("samples")),
        accuracy=accuracy,
        metrics=_measures(record.get("metrics")),
        baselines=_measures(record.get("baselines")),
    )


def latest(evaluations: list[Evaluation]) -> list[Evaluation]:
    """Of evaluations that were made twice, as after a resume, the later one."""
    return list({(one.step, one.series): one for one in evaluations}.values())


def evaluations_of_summary(summary: Record) -> list[Evaluation]:
    """Both ends of a run that kept no `evaluations.jsonl`."""
    found = []
    for step, when in ((0, "before"), (_count(summary.get("steps")) or 0, "after")):
        record: Record = {
            "step": step,
            "accuracy": summary.get(f"accuracy_{when}"),
            "interval": summary.get(f"ci95_{when}"),
            "n": summary.get("n_eval"),
        }
        evaluation = parse_evaluation(record)
        if evaluation is not None and (when == "before" or step > 0):
            found.append(evaluation)
    return found
