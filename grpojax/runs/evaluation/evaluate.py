"""Evaluation of a policy on the problems of a data set."""

import dataclasses
import os
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, Key

from ...env import AbstractAnswerEnvironment, AbstractDatasetEnvironment
from ...policy import AbstractPolicy
from ...rollout import AbstractSampler, Categorical, Greedy
from ...sharding import spmd
from ...text import AbstractTokenizer
from ..distributed import mesh, processes
from ..io import jsonl
from ..io.fingerprint import fingerprint, settings
from .eval_batch import complete, to_records
from .predictions import resume
from .result import EvaluationResult
from .statistics import Answer, most_frequent


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Problems that a policy is evaluated on, and how.

    **Fields:**

    - `env`: problems, rewards and right answers.
    - `samples`: completions of each problem.
    - `sampler`: draws them; `rollout.Greedy()` for the most likely tokens.
    - `success`: the reward that is 1 for a right answer, else 0.
    - `problems`: how many of the first problems; all of them when `None`.
    - `batch`: problems at a time; on a mesh rounded up to what can be split evenly.
    - `slots`: completions that are decoded at a time; see `RolloutConfig`.
    - `training`: the environment that is trained on, whose most frequent answer is a
        baseline.
    - `split`: the name of the problems in records.
    - `key`: the same key draws the same completions; by default `jax.random.key(0)`.

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
    success: str = "correct"
    problems: int | None = None
    batch: int = 64
    slots: int | None = None
    training: AbstractAnswerEnvironment | None = None
    split: str = "held_out"
    key: Key[Array, ""] | None = None

    def __post_init__(self):
        if not 1 <= self.count <= self.env.size:
            raise ValueError(
                f"Evaluation: problems must be between 1 and the {self.env.size} that "
                f"the environment has. Received {self.problems}."
            )
        for name, size in (("samples", self.samples), ("batch", self.batch)):
            if size < 1:
                raise ValueError(
                    f"Evaluation: {name} must be a positive integer. Received {size}."
                )

    @property
    def count(self) -> int:
        """How many problems there are."""
        return self.env.size if self.problems is None else self.problems

    @property
    def mode(self) -> str:
        """`"greedy"` or `"sampled"`."""
        return "greedy" if isinstance(self.sampler, Greedy) else "sampled"

    def to_json(self) -> dict[str, object]:
        """Settings in a record of `evaluations.jsonl`."""
        greedy = isinstance(self.sampler, Greedy)
        temperature = 0.0 if greedy else float(self.sampler.temperature)
        return {"split": self.split, "mode": self.mode, "temperature": temperature}

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
        - `tokenizer`: decodes samples for that file.
        - `report`: called with the number of problems so far, and of all problems.

        **Raises:** `ValueError` without a tokenizer for the predictions, or if another
        evaluation has begun their file.
        """
        if predictions is not None and tokenizer is None:
            raise ValueError(
                "Evaluation.run(predictions=...) writes text, which needs a tokenizer. "
                "Received tokenizer=None: pass the policy's."
            )
        start, count = time.perf_counter(), self.count
        key = jr.key(0) if self.key is None else self.key
        # Every shard of a mesh has equally many problems.
        shards = spmd.shards()
        batch = -(-min(self.batch, count) // shards) * shards

        def call(function: Callable, first: int):
            numbers = np.int32(first), np.int32(count)
            return function(
                *(policy, self.env, self.sampler, *numbers, key),
                batch=batch,
                samples=self.samples,
                slots=self.slots,
                success=self.success,
            )

        # Traced before a file is started: what does not fit leaves nothing behind.
        lowered = call(complete.lower, 0)  # pyright: ignore[reportFunctionMemberAccess]
        common = None if self.training is None else _most_frequent(self.training)
        records: list[dict] = []
        if predictions is not None or processes.is_multihost():
            header = self._header(policy, common, key)
            begin = lambda: [] if predictions is None else resume(predictions, header)
            records = processes.broadcast_from_0(begin)
        program = lowered.compile() if len(records) < count else None
        compiled = time.perf_counter()
        # Nobody reads the text of completions without a file.
        decode = tokenizer.decode if predictions and tokenizer else lambda _: ""
        while program is not None and (done := len(records)) < count:
            # Always the same batches: one that a kill has halved is sampled again as a
            # whole, so that the rest of it is bit for bit what it would have been.
            first = done - done % batch
            sampled = call(program, first)
            rows = slice(done - first, count - first)
            found = to_records(sampled, rows, decode, first=done, success=self.success)
            if predictions is not None and processes.is_process_0():
                jsonl.append(predictions, *found)
            records += found
            if report is not None:
                report(len(records), count)
        length = self.env.max_completion_length
        return dataclasses.replace(
            EvaluationResult.of(records, length, common),
            seconds=time.perf_counter() - compiled,
            seconds_compile=compiled - start,
        )

    def _header(
        self, policy: AbstractPolicy, common: Answer, key: Key[Array, ""]
    ) -> dict[str, object]:
        """Everything that completions depend on."""
        return {
            "problems": self.count,
            "samples": self.samples,
            "success": self.success,
            "training_answer": common,
            "split": self.split,
            "max_completion_length": self.env.max_completion_length,
            "sampler": settings(self.sampler),
            "key": jr.key_data(key).tolist(),
            "environment": settings(self.env),
            "data": fingerprint(self.env),
            "model": fingerprint(policy),
        }


@eqx.filter_jit
def _gold(env: AbstractAnswerEnvironment) -> Int[Array, " problem"]:
    gold = jax.vmap(lambda i: env.gold(env.problem(i)[0]))(jnp.arange(env.size))
    return mesh.replicate(gold)


def _most_frequent(env: AbstractAnswerEnvironment) -> Answer:
    return most_frequent(jax.device_get(_gold(env)).tolist())
