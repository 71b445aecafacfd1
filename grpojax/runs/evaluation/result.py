"""Result of an evaluation: samples of every problem, and their accuracy."""

import collections
import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ...measures import AbstractMeasures, Answers, Measured
from .statistics import (
    Answer,
    correct_metrics,
    mean_over_problems,
    mean_reward,
    Measure,
    most_frequent,
)


class Baseline(NamedTuple):
    """Accuracy of a policy that does not read the problem.

    **Fields:**

    - `value`, `n`, `interval`: the accuracy, as in `Measure`.
    - `answer`: its constant answer, if it gives one.
    """

    value: float
    n: int
    interval: tuple[float, float]
    answer: Answer


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Samples of every problem with their rewards, on the host.

    **Fields:**

    - `correct`: whether a sample's answer is right; `None` if no reward says so.
    - `judged`: the problems for which one does: not those of a mixture's tasks that
        pay no such reward.
    - `rewards`: by component; NaN where one does not apply.
    - `total`: the reward of the reward function; `None` without one, if `correct` is
        known.
    - `failed`: on how many samples a host reward failed, by component.
    - `lengths`: sampled tokens.
    - `terminated`: samples that ended with an end token; the others were truncated.
    - `prompts`: prompt tokens of each problem.
    - `tokens`: completion tokens, replies of the environment included, padded with 0.
    - `total_lengths`: tokens without padding; more than `lengths` where there are
        replies.
    - `answers`: the answer of each sample, by problem; `None` where it has none.
    - `gold`: the right answers; `None` if the environment does not know them.
    - `empty_is_correct`: whether empty turns score as correct (a baseline), if known.
    - `training_answer`: the most frequent answer of the training problems.
    - `tasks`: the task of each problem, of a mixture.
    - `rows`: columns of each problem's row that measures need.
    - `own`: measures of the environment's own.
    - `seconds`, `seconds_compile`: how long it took, compilation apart.
    """

    correct: Bool[np.ndarray, "problem sample"] | None
    judged: Bool[np.ndarray, " problem"]
    rewards: dict[str, Float[np.ndarray, "problem sample"]]
    lengths: Int[np.ndarray, "problem sample"]
    terminated: Bool[np.ndarray, "problem sample"]
    prompts: list[Int[np.ndarray, " _"]]
    tokens: Int[np.ndarray, "problem sample time"]
    total_lengths: Int[np.ndarray, "problem sample"]
    answers: list[list[Answer]]
    gold: list[Answer]
    empty_is_correct: Bool[np.ndarray, " problem"] | None
    total: Float[np.ndarray, "problem sample"] | None = None
    failed: dict[str, int] = dataclasses.field(default_factory=dict)
    training_answer: Answer = None
    tasks: list[str] = dataclasses.field(default_factory=list)
    rows: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    own: Measured = Measured()
    seconds: float = 0.0
    seconds_compile: float = 0.0

    @classmethod
    def of(
        cls,
        records: Sequence[Mapping],
        max_completion_length: int,
        training_answer: Answer,
    ) -> "EvaluationResult":
        """The result that records have, as a file of predictions holds them.

        **Arguments:**

        - `records`: one for each problem, at least one; see `predictions`.
        - `max_completion_length`: the size of the time axis.
        - `training_answer`: the most frequent answer of the training problems.
        """
        rows = [record["samples"] for record in records]

        def samples(pick: Callable[[Mapping], object], dtype) -> np.ndarray:
            return np.array([[pick(sample) for sample in row] for row in rows], dtype)

        def padded(sample: Mapping) -> list[int]:
            padding = max_completion_length - len(sample["tokens"])
            return sample["tokens"] + [0] * padding

        every = [sample for row in rows for sample in row]
        judged = np.array([row[0]["correct"] is not None for row in rows])
        silent = [record["silent"] for record in records]
        failed = [name for sample in every for name in sample.get("failed", ())]
        judges = "total" in every[0]
        return cls(
            correct=samples(lambda x: x["correct"], bool) if judged.any() else None,
            judged=judged,
            rewards={
                name: samples(lambda x, name=name: x["rewards"][name], np.float32)
                for name in rows[0][0]["rewards"]
            },
            lengths=samples(lambda x: x["length"], np.int32),
            terminated=samples(lambda x: x["terminated"], bool),
            prompts=[np.array(record["prompt_tokens"], np.int32) for record in records],
            tokens=samples(padded, np.int32),
            total_lengths=samples(lambda x: len(x["tokens"]), np.int32),
            answers=[[sample["answer"] for sample in row] for row in rows],
            gold=[record["answer"] for record in records],
            empty_is_correct=None if None in silent else np.array(silent, bool),
            total=samples(lambda x: x["total"], np.float32) if judges else None,
            failed=dict(collections.Counter(failed)),
            training_answer=training_answer,
            tasks=[record["task"] for record in records if "task" in record],
            rows=[record["row"] for record in records if "row" in record],
        )

    def measured_by(self, measures: AbstractMeasures | None) -> "EvaluationResult":
        """The same result with an environment's own measures."""
        if measures is None:
            return self
        answers = [
            [x if isinstance(x, int) else np.nan for x in row] for row in self.answers
        ]
        columns = {
            name: [row.get(name) for row in self.rows] for name in measures.columns
        }
        given = Answers(columns, np.array(answers, np.float64), self.rewards)
        return dataclasses.replace(self, own=measures(given))

    @property
    def count(self) -> int:
        """Number of samples."""
        return self.lengths.size

    @property
    def accuracy(self) -> float:
        """Share of samples that are correct.

        **Raises:** `ValueError` if no reward says which are.
        """
        if self.correct is None:
            raise ValueError(
                "An accuracy needs a reward that is 1 for a right answer. Received the "
                f"rewards {sorted(self.rewards)}: name it by Evaluation(success=...), "
                'or read measures["reward"].'
            )
        return float(np.mean(self.correct[self.judged]))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy, or else of the reward, on such problems.

        Wilson's, with problems as clusters if they have several samples; see
        `statistics.mean_over_problems` and `statistics.mean_reward`.
        """
        return next(iter(self.measures.values())).interval

    @property
    def mean_length(self) -> float:
        """Mean number of sampled tokens of a completion."""
        return float(np.mean(self.lengths))

    @property
    def clipped_ratio(self) -> float:
        """Share of samples that were truncated."""
        return float(np.mean(~self.terminated))

    @property
    def measures(self) -> dict[str, Measure]:
        """The accuracy, if it is known, and `metrics`; the first one sums it up."""
        measures = {}
        if self.correct is not None:
            mean = self.metrics[f"mean@{self.correct.shape[1]}"]
            measures["accuracy"] = Measure(self.accuracy, mean.n, mean.interval)
        return measures | self.metrics

    @property
    def metrics(self) -> dict[str, Measure]:
        """Means over problems, each with how many there are and its interval.

        With K samples of every problem:

        - `pass@k`: one of k samples is correct, for k = 1, 2, 4, ... and K.
        - `mean@K`: the share of correct samples, which is the accuracy.
        - `maj@K`: the majority vote of the samples is correct, if they have answers.
        - `reward`: the mean total, if a reward function judges, or nothing says which
            answers are right; and `rewards/NAME`, its components.
        - `accuracy/TASK`, `reward/TASK`: of the problems of each task of a mixture.
        - those of the environment's own, `own`.
        """
        metrics = {}
        if self.correct is not None:
            metrics = correct_metrics(
                self.correct, self.answers, self.gold, self.judged
            )
        if self.total is not None:
            named = {f"rewards/{name}": x for name, x in self.rewards.items()}
            for name, values in {"reward": self.total, **named}.items():
                found = mean_reward(values.tolist())
                metrics |= {} if found is None else {name: found}
        for task in dict.fromkeys(self.tasks):
            metrics |= self._of_task(task)
        return {**metrics, **self.own.shares, **self.own.numbers}

    def _of_task(self, task: str) -> dict[str, Measure]:
        rows, metrics = np.array([own == task for own in self.tasks]), {}
        judged = rows & self.judged
        if self.correct is not None and judged.any():
            samples = self.correct.shape[1]
            scores = np.mean(self.correct[judged], axis=1)
            found = mean_over_problems(scores.tolist(), trials=samples)
            metrics[f"accuracy/{task}"] = found
        if self.total is not None:
            found = mean_reward(self.total[rows].tolist())
            metrics |= {} if found is None else {f"reward/{task}": found}
        return metrics

    @property
    def baselines(self) -> dict[str, Baseline]:
        """Accuracies without reading the problem.

        - `empty_completion`: every turn is empty.
        - `majority_answer`: the most frequent answer of the training problems.
        - `majority_answer_of_this_split`: the best constant answer of these problems,
            which is not known in advance.
        """
        own = self.own.baselines.items()
        baselines = {name: Baseline(*measure, None) for name, measure in own}
        if self.empty_is_correct is not None:
            hits = self.empty_is_correct[self.judged].tolist()
            baselines["empty_completion"] = _baseline(hits, None)
        if None in self.gold or self.correct is None:
            return baselines
        constants = {
            "majority_answer": self.training_answer,
            "majority_answer_of_this_split": most_frequent(self.gold),
        }
        for name, answer in constants.items():
            if answer is not None:
                hits = [gold == answer for gold in self.gold]
                baselines[name] = _baseline(hits, answer)
        return baselines

    def to_json(self) -> dict[str, object]:
        """All of these as plain values."""
        accuracy = {}
        if self.correct is not None:
            accuracy = {"accuracy": self.accuracy, "interval": list(self.interval)}
        return {
            "n": self.count,
            "problems": self.lengths.shape[0],
            "samples": self.lengths.shape[1],
            **accuracy,
            "metrics": _plain(self.metrics, self.own.numbers),
            "baselines": _plain(self.baselines),
            "mean_length": self.mean_length,
            "clipped_ratio": self.clipped_ratio,
            **({"failed": self.failed} if self.failed else {}),
        }


def _baseline(hits: Sequence[bool], answer: Answer) -> Baseline:
    return Baseline(*mean_over_problems([float(hit) for hit in hits]), answer)


def _plain(
    named: dict[str, Measure] | dict[str, Baseline], numbers: Container[str] = ()
) -> dict[str, object]:
    """As plain values; what is no share says so."""
    return {
        name: {
            **measure._asdict(),
            "interval": list(measure.interval),
            **({"share": False} if name in numbers else {}),
        }
        for name, measure in named.items()
    }
