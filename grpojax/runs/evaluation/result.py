"""Result of an evaluation: samples of every problem, and their accuracy."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .statistics import (
    Answer,
    majority,
    mean_over_problems,
    Measure,
    most_frequent,
    pass_at_k,
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
    """Samples of every problem and their correctness, on the host.

    **Fields:**

    - `correct`: whether a sample's answer is right.
    - `rewards`: the environment's rewards by component.
    - `lengths`: sampled tokens.
    - `terminated`: samples that ended with an end token; the others were truncated.
    - `prompts`: prompt tokens of each problem.
    - `tokens`: completion tokens, replies of the environment included, padded with 0.
    - `total_lengths`: tokens without padding; more than `lengths` where there are
        replies.
    - `answers`: the answer of each sample, by problem; `None` where it has none.
    - `gold`: the right answers; `None` if the environment does not know them.
    - `empty_is_correct`: whether empty turns score as correct (a baseline).
    - `training_answer`: the most frequent answer of the training problems.
    - `seconds`, `seconds_compile`: how long it took, compilation apart.
    """

    correct: Bool[np.ndarray, "problem sample"]
    rewards: dict[str, Float[np.ndarray, "problem sample"]]
    lengths: Int[np.ndarray, "problem sample"]
    terminated: Bool[np.ndarray, "problem sample"]
    prompts: list[Int[np.ndarray, " _"]]
    tokens: Int[np.ndarray, "problem sample time"]
    total_lengths: Int[np.ndarray, "problem sample"]
    answers: list[list[Answer]]
    gold: list[Answer]
    empty_is_correct: Bool[np.ndarray, " problem"]
    training_answer: Answer = None
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

        return cls(
            correct=samples(lambda x: x["correct"], bool),
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
            empty_is_correct=np.array([record["silent"] for record in records], bool),
            training_answer=training_answer,
        )

    @property
    def count(self) -> int:
        """Number of samples."""
        return self.correct.size

    @property
    def accuracy(self) -> float:
        """Share of samples that are correct."""
        return float(np.mean(self.correct))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy on problems like these.

        Wilson's, with problems as clusters if they have several samples; see
        `statistics.mean_over_problems`.
        """
        return self.metrics[f"mean@{self.correct.shape[1]}"].interval

    @property
    def mean_length(self) -> float:
        """Mean number of sampled tokens of a completion."""
        return float(np.mean(self.lengths))

    @property
    def clipped_ratio(self) -> float:
        """Share of samples that were truncated."""
        return float(np.mean(~self.terminated))

    @property
    def metrics(self) -> dict[str, Measure]:
        """Means over problems, each with how many there are and its interval.

        With K samples of every problem:

        - `pass@k`: one of k samples is correct, for k = 1, 2, 4, ... and K.
        - `mean@K`: the share of correct samples, which is the accuracy.
        - `maj@K`: the majority vote of the samples is correct, if they have answers.
        """
        samples = self.correct.shape[1]
        counts = np.sum(self.correct, axis=1).tolist()
        powers = [2**i for i in range(samples.bit_length()) if 2**i < samples]
        metrics = {
            f"pass@{k}": mean_over_problems(
                [pass_at_k(samples, c, k) for c in counts],
                # As many groups of k have no sample in common.
                trials=samples // k,
            )
            for k in [*powers, samples]
        }
        metrics[f"mean@{samples}"] = mean_over_problems(
            [c / samples for c in counts], trials=samples
        )
        if None not in self.gold:
            votes = map(majority, self.answers, self.gold)
            metrics[f"maj@{samples}"] = mean_over_problems(list(votes))
        return metrics

    @property
    def baselines(self) -> dict[str, Baseline]:
        """Accuracies without reading the problem.

        - `empty_completion`: every turn is empty.
        - `majority_answer`: the most frequent answer of the training problems.
        - `majority_answer_of_this_split`: the best constant answer of these problems,
            which is not known in advance.
        """
        baselines = {
            "empty_completion": _baseline(self.empty_is_correct.tolist(), None)
        }
        if None in self.gold:
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
        return {
            "n": self.count,
            "problems": self.correct.shape[0],
            "samples": self.correct.shape[1],
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "metrics": _plain(self.metrics),
            "baselines": _plain(self.baselines),
            "mean_length": self.mean_length,
            "clipped_ratio": self.clipped_ratio,
        }


def _baseline(hits: Sequence[bool], answer: Answer) -> Baseline:
    return Baseline(*mean_over_problems([float(hit) for hit in hits]), answer)


def _plain(named: dict[str, Measure] | dict[str, Baseline]) -> dict[str, object]:
    return {
        name: {**measure._asdict(), "interval": list(measure.interval)}
        for name, measure in named.items()
    }
