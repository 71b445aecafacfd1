"""Evaluation of a policy on the problems of a data set."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Array, Int, Key

from ...env import AbstractAnswerEnvironment, AbstractDatasetEnvironment
from ...measures import AbstractMeasures
from ...policy import AbstractPolicy
from ...reward import RewardFn
from ...rollout import AbstractSampler, Categorical, Greedy, Truncated
from ...text import AbstractTokenizer
from .evaluator import Evaluator
from .result import EvaluationResult


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Problems that a policy is evaluated on, and how.

    **Fields:**

    - `env`: problems, rewards and right answers.
    - `samples`: completions of each problem.
    - `sampler`: draws them; `rollout.Greedy()` for the most likely tokens,
        `rollout.Truncated` for top-k, top-p and min-p.
    - `reward`: a reward function that judges them, such as that of training; the
        environment's rewards when `None`.
    - `success`: the reward that is 1 for a right answer, else 0; `correct` when `None`,
        if there is one. Without one there is no accuracy, and the mean reward counts.
    - `problems`: how many of the first problems; all of them when `None`. Of a mixture
        an equal share of each task, or all of a task that has less.
    - `batch`: problems at a time; on a mesh rounded up to what can be split evenly.
    - `slots`: completions that are decoded at a time; see `RolloutConfig`.
    - `training`: the environment that is trained on, whose most frequent answer is a
        baseline.
    - `measures`: what is measured besides the accuracy; the environment's own when
        `None`.
    - `split`: the name of the problems in records.
    - `key`: the same key draws the same completions; by default `jax.random.key(0)`.
    - `every`: in a run, the steps between two evaluations; `None` for none meanwhile.
    - `at_start`, `at_end`: in a run, whether it is made before the first and after the
        last step.
    - `average`: in a run, whether the average of the weights is evaluated, and not the
        policy.

    **Raises:** `ValueError` for sizes that are not positive, or more problems than the
    environment has.

    !!! example

        ```python
        result = Evaluation(test_env, samples=4).run(policy)
        result.accuracy, result.interval
        ```
    """

    env: AbstractDatasetEnvironment
    samples: int = 1
    sampler: AbstractSampler = Categorical()
    reward: RewardFn | None = None
    success: str | None = None
    problems: int | None = None
    batch: int = 64
    slots: int | None = None
    training: AbstractAnswerEnvironment | None = None
    measures: AbstractMeasures | None = None
    split: str = "held_out"
    key: Key[Array, ""] | None = None
    every: int | None = None
    at_start: bool = True
    at_end: bool = True
    average: bool | None = None

    def __post_init__(self):
        if not 1 <= self.count <= self.env.size:
            raise ValueError(
                f"Evaluation: problems must be between 1 and the {self.env.size} that "
                f"the environment has. Received {self.problems}."
            )
        for name in ("samples", "batch", "every"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(
                    f"Evaluation: {name} must be a positive integer. Received {size}."
                )

    @property
    def count(self) -> int:
        """How many problems there are."""
        return self.env.size if self.problems is None else self.problems

    @property
    def shares(self) -> dict[str, int]:
        """How many problems there are of each task of a mixture; else empty."""
        sizes = self.env.tasks
        shares = dict.fromkeys(sizes, 0)
        while sizes and (left := self.count - sum(shares.values())):
            more = [task for task, size in sizes.items() if shares[task] < size]
            for place, task in enumerate(more):
                share = left // len(more) + (place < left % len(more))
                shares[task] = min(shares[task] + share, sizes[task])
        return shares

    @property
    def numbers(self) -> Int[np.ndarray, " problem"]:
        """The numbers of the problems in the environment."""
        if not self.env.tasks:
            return np.arange(self.count, dtype=np.int32)
        firsts = np.cumsum([0, *self.env.tasks.values()])
        taken = zip(firsts, self.shares.values(), strict=False)
        return np.concatenate([np.arange(x, x + n, dtype=np.int32) for x, n in taken])

    @property
    def own_measures(self) -> AbstractMeasures | None:
        """What is measured besides the accuracy, if anything."""
        return self.env.own_measures if self.measures is None else self.measures

    @property
    def columns(self) -> list[dict[str, object]]:
        """Of every problem the columns that these need; empty if none are."""
        if self.own_measures is None or self.env.rows is None:
            return []
        rows = {
            x: self.env.rows[x] for x in self.own_measures.columns if x in self.env.rows
        }
        return [{x: y[i] for x, y in rows.items()} for i in self.numbers.tolist()]

    @property
    def mode(self) -> str:
        """`"greedy"` or `"sampled"`."""
        return "greedy" if isinstance(self.sampler, Greedy) else "sampled"

    def is_due(self, step: int, steps: int) -> bool:
        """Whether it is made after a step of a run of so many."""
        if step == 0:
            return self.at_start or (self.at_end and steps == 0)
        return (self.at_end and step == steps) or (
            self.every is not None and step % self.every == 0
        )

    def to_json(self) -> dict[str, object]:
        """Settings in a record of `evaluations.jsonl`."""
        greedy = isinstance(self.sampler, Greedy)
        temperature = 0.0 if greedy else float(self.sampler.temperature)
        found = {"split": self.split, "mode": self.mode, "temperature": temperature}
        if isinstance(self.sampler, Truncated):
            given = {x: vars(self.sampler)[x] for x in ("top_k", "top_p", "min_p")}
            found |= {x: y for x, y in given.items() if y is not None}
        return found

    def run(
        self,
        policy: AbstractPolicy,
        *,
        predictions: str | os.PathLike[str] | None = None,
        tokenizer: AbstractTokenizer | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> EvaluationResult:
        """Evaluates a policy.

        On a mesh, as `jax.set_mesh` has set it, problems are split over its devices.
        They are taken in order, batch by batch through one compiled program. A sample's
        randomness is that of its own index, so completions do not depend on `batch`, on
        `slots` or on where an evaluation was interrupted, except for rounding in the
        last bit, which can decide between two tokens that are equally likely.

        **Arguments:**

        - `policy`: is sampled from.
        - `predictions`: a file to which samples are appended, batch by batch. Those
            that it holds already are read and not sampled again.
        - `tokenizer`: decodes samples for that file, and for votes over texts.
        - `report`: called with the number of problems so far, and of all problems.

        **Raises:** `ValueError` without a tokenizer for the predictions, or if another
        evaluation has begun their file.
        """
        return Evaluator(self, policy).run(
            policy, predictions=predictions, tokenizer=tokenizer, report=report
        )


_Named = TypeVar("_Named")


def named(
    evaluation: Evaluation | Mapping[str, _Named] | None,
) -> dict[str, Evaluation | _Named]:
    """Evaluations by name; the name of a single one is its `split`.

    **Raises:** `ValueError` for a name that cannot be part of a file's name.
    """
    given: dict[str, Evaluation | _Named] = {}
    if isinstance(evaluation, Evaluation):
        given[evaluation.split] = evaluation
    elif evaluation is not None:
        given.update(evaluation)
    for name in given:
        check_name(name)
    return given


def check_name(name: str) -> None:
    """Raises a `ValueError` for a name of an evaluation that files cannot have."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(
            "The name of an evaluation is part of a file's name: letters, digits, _ and"
            f" -. Received {name!r}."
        )
