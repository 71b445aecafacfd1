"""What a policy said to the problems of a data set, and what that is worth."""

import dataclasses
from collections.abc import Sequence
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
    """What a policy earns that does not read the problem.

    **Fields:**

    - `value`, `n`, `interval`: the accuracy, as in `Measure`.
    - `answer`: what it answers every time, if anything.
    """

    value: float
    n: int
    interval: tuple[float, float]
    answer: Answer


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a policy said to every problem, and how often it was right; on the host.

    **Fields:**

    - `right`: whether a sample answers its problem.
    - `rewards`: what the environment paid, by component.
    - `lengths`: sampled tokens.
    - `terminated`: whether a sample said its end token; the others were truncated.
    - `prompts`, `tokens`: what was read and said, 0 past the end.
    - `extents`: how long `tokens` is; more than `lengths` where an environment replied.
    - `answers`: what each sample answers, by problem; `None` where it gives no answer.
    - `gold`: the right answers; `None` of an environment that does not tell them.
    - `silent`: whether it is right to end every turn at once.
    - `training_answer`: the most frequent answer of what was trained on, if known.
    - `seconds`, `seconds_compile`: how long it took, compilation apart.
    """

    right: Bool[np.ndarray, "problem sample"]
    rewards: dict[str, Float[np.ndarray, "problem sample"]]
    lengths: Int[np.ndarray, "problem sample"]
    terminated: Bool[np.ndarray, "problem sample"]
    prompts: list[Int[np.ndarray, " _"]]
    tokens: Int[np.ndarray, "problem sample time"]
    extents: Int[np.ndarray, "problem sample"]
    answers: list[list[Answer]]
    gold: list[Answer]
    silent: Bool[np.ndarray, " problem"]
    training_answer: Answer = None
    seconds: float = 0.0
    seconds_compile: float = 0.0

    @property
    def count(self) -> int:
        """How many samples were judged."""
        return self.right.size

    @property
    def accuracy(self) -> float:
        """The share of samples that are right."""
        return float(np.mean(self.right))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the accuracy on problems like these.

        Wilson's, with problems as clusters if they have several samples; see
        `statistics.mean_over_problems`.
        """
        return self.metrics[f"mean@{self.right.shape[1]}"].interval

    @property
    def mean_length(self) -> float:
        """Sampled tokens of a completion."""
        return float(np.mean(self.lengths))

    @property
    def clipped_ratio(self) -> float:
        """The share of samples that were truncated."""
        return float(np.mean(~self.terminated))

    @property
    def metrics(self) -> dict[str, Measure]:
        """Means over problems, each with how many there are and its interval.

        With K samples of every problem:

        - `pass@k`: one of k samples is right, for k = 1, 2, 4, ... and K.
        - `mean@K`: the share of right samples, which is the accuracy.
        - `maj@K`: the vote of the samples is right, if they have answers.
        """
        samples = self.right.shape[1]
        counts = np.sum(self.right, axis=1).tolist()
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
        """What is earned without reading the problem.

        - `empty_completion`: every turn is ended at once.
        - `majority_answer`: the most frequent answer of what was trained on, if known.
        - `majority_answer_of_this_split`: the best that any constant answer does on
            these problems, which one would have to know in advance.
        """
        baselines = {"empty_completion": _baseline(self.silent.tolist(), None)}
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

    def numbers(self) -> dict[str, object]:
        """All of these as plain values, for JSON."""
        return {
            "n": self.count,
            "problems": self.right.shape[0],
            "samples": self.right.shape[1],
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


def concatenate(parts: Sequence[Evaluation]) -> Evaluation:
    """Evaluations of one problem after another as a single one; seconds add up."""
    stack = lambda pick: np.concatenate([pick(part) for part in parts])
    chain = lambda pick: [item for part in parts for item in pick(part)]
    return Evaluation(
        right=stack(lambda x: x.right),
        rewards={
            name: stack(lambda x, name=name: x.rewards[name])
            for name in parts[0].rewards
        },
        lengths=stack(lambda x: x.lengths),
        terminated=stack(lambda x: x.terminated),
        prompts=chain(lambda x: x.prompts),
        tokens=stack(lambda x: x.tokens),
        extents=stack(lambda x: x.extents),
        answers=chain(lambda x: x.answers),
        gold=chain(lambda x: x.gold),
        silent=stack(lambda x: x.silent),
        training_answer=parts[0].training_answer,
        seconds=sum(part.seconds for part in parts),
        seconds_compile=sum(part.seconds_compile for part in parts),
    )
