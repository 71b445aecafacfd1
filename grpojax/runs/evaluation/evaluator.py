"""An evaluation with its programs: traced once, and compiled for the first policy."""

import copy
import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, Key

from ...env import AbstractAnswerEnvironment
from ...policy import AbstractPolicy
from ...reward import split
from ...sharding import spmd
from ...text import AbstractTokenizer
from ..distributed import mesh, processes
from ..io.description import describe
from ..io.fingerprint import fingerprint, settings
from .eval_batch import EvalBatch, sample, score_batch, Sizes, to_records
from .predictions import append, Begun, resume
from .result import EvaluationResult
from .statistics import Answer, measure_names, most_frequent


if TYPE_CHECKING:
    from .evaluate import Evaluation


logger = logging.getLogger(__name__)


@eqx.filter_jit
def _complete(policy, env, reward, *numbers, sizes: Sizes, success: str | None):
    """A batch in one program."""
    return score_batch(env, reward, sample(policy, env, *numbers, sizes=sizes), success)


def _sample_outside(policy, env, reward, *numbers, sizes: Sizes, success: str | None):
    """What is known of a batch before host rewards are called."""
    del success
    is_number = lambda x: isinstance(x, np.ndarray | np.generic)
    given: Any = [jnp.asarray(x) if is_number(x) else x for x in numbers]
    trajectory = sample(policy, env, *given, sizes=sizes)
    inputs = split.host_inputs(reward, trajectory)
    return spmd.constrain_batch((trajectory, inputs))


_sample = eqx.filter_jit(_sample_outside)


@eqx.filter_jit
def _score(env, reward, trajectory, outputs, *, success: str | None):
    """The batch, once they have been called."""
    return score_batch(
        env, split.with_outputs(reward, trajectory, outputs), trajectory, success
    )


class Evaluator:
    """An evaluation of policies that differ in nothing but their weights.

    It is one program, or two with Python between them if a `HostReward` judges. They
    are compiled for the first policy. The backend of an environment is called as it is.

    **Arguments:**

    - `evaluation`: what is evaluated, and how.
    - `policy`: one of the policies, or one of shapes, for which it is checked only.

    **Raises:** what does not fit; nothing has been compiled or written by then.
    """

    def __init__(self, evaluation: "Evaluation", policy: AbstractPolicy):
        start = time.perf_counter()
        self.evaluation, key = evaluation, evaluation.key
        self._key = jr.key(0) if key is None else key
        # As few rows as possible beyond the last problem; on a mesh every shard has
        # equally many.
        count, shards = evaluation.count, spmd.shards()
        share = -(-count // -(-count // evaluation.batch))
        self._batch = -(-share // shards) * shards
        self._chosen = evaluation.numbers if evaluation.env.tasks else None
        sizes = Sizes(self._batch, evaluation.samples, evaluation.slots)
        self._static = {"sizes": sizes, "success": evaluation.success}
        outside = evaluation.env.backend is not None
        self._two = outside or bool(split.host_rewards(evaluation.reward))
        is_shape = lambda x: isinstance(x, jax.ShapeDtypeStruct)
        abstract = any(map(is_shape, jax.tree.leaves(policy)))
        if self._two or abstract:
            self._shapes(policy)  # So that the second program has been checked, too.
        self._compiled: Callable | None = _sample_outside if outside else None
        if not outside and not abstract:
            program = _sample if self._two else _complete
            lower = program.lower  # pyright: ignore[reportFunctionMemberAccess]
            self._lowered = lower(*self._arguments(policy, 0), **self._static)
        self._seconds_trace = time.perf_counter() - start

    @staticmethod
    def of(evaluation: "Evaluation | Evaluator", policy: AbstractPolicy) -> "Evaluator":
        """An evaluation with its programs, if it does not have them."""
        if isinstance(evaluation, Evaluator):
            return evaluation
        return Evaluator(evaluation, policy)

    def with_key(self, key: Key[Array, ""] | None) -> "Evaluator":
        """The same programs, for other completions."""
        other = copy.copy(self)
        other.evaluation = dataclasses.replace(self.evaluation, key=key)
        other._key, other._seconds_trace = jr.key(0) if key is None else key, 0.0
        return other

    def _arguments(self, policy: AbstractPolicy, first: int) -> tuple:
        of = self.evaluation
        numbers = np.int32(first), np.int32(of.count), self._chosen, self._key
        return policy, of.env, of.reward, of.sampler, *numbers

    def _shapes(self, policy: AbstractPolicy) -> EvalBatch:
        arguments = self._arguments(policy, 0)
        return eqx.filter_eval_shape(_complete, *arguments, **self._static)

    def measures(self, policy: AbstractPolicy) -> list[str]:
        """The names of what it measures."""
        shapes, own = self._shapes(policy), self.evaluation.own_measures
        return measure_names(
            self.evaluation.samples,
            correct=shapes.correct is not None,
            rewards=None if shapes.total is None else sorted(shapes.rewards),
            tasks=list(self.evaluation.shares),
        ) + list(() if own is None else own.names)

    def _compile(self) -> Callable:
        compiled = self._compiled or self._lowered.compile()
        self._compiled = compiled
        return compiled

    def _batch_from(self, policy: AbstractPolicy, first: int) -> EvalBatch:
        """The batch that begins with problem `first`."""
        of = self.evaluation
        sampled = self._compile()(*self._arguments(policy, first), **self._static)
        if not self._two:
            return sampled
        trajectory, inputs = sampled
        outputs = split.call_host(of.reward, inputs)
        return _score(of.env, of.reward, trajectory, outputs, success=of.success)

    @functools.cached_property
    def _common_answer(self) -> Answer:
        training = self.evaluation.training
        return None if training is None else _most_frequent(training)

    def run(
        self,
        policy: AbstractPolicy,
        *,
        predictions: str | os.PathLike[str] | None = None,
        tokenizer: AbstractTokenizer | None = None,
        report: Callable[[int, int], None] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> EvaluationResult:
        """Evaluates a policy; see `Evaluation.run`.

        With `warn` a file of predictions is the evaluation's own: one that is damaged
        or of another is named to it, and replaced.
        """
        if predictions is not None and tokenizer is None:
            raise ValueError(
                "Evaluation.run(predictions=...) writes text, which needs a tokenizer. "
                "Received tokenizer=None: pass the policy's."
            )
        start, count = time.perf_counter(), self.evaluation.count
        common, begun = self._common_answer, Begun([], None, None)
        if predictions is not None or processes.is_multihost():
            header, replace = self._header(policy), warn is not None
            begin = lambda: (
                begun
                if predictions is None
                else resume(predictions, header, replace=replace)
            )
            begun = processes.broadcast_from_0(begin)
        records, checksum, problem = begun
        if problem is not None:
            (warn or logger.warning)(problem)
        if len(records) < count:
            self._compile()
        compiled = time.perf_counter()
        decode = None if tokenizer is None else tokenizer.decode
        tasks = [x for x, share in self.evaluation.shares.items() for _ in range(share)]
        columns, own = self.evaluation.columns, self.evaluation.own_measures
        if predictions is None and self.evaluation.samples == 1:
            decode = None  # Nobody reads the text.
        while (done := len(records)) < count:
            # Always the same batches: one that a kill has halved is sampled again as a
            # whole, so that the rest of it is bit for bit what it would have been.
            first = done - done % self._batch
            sampled = self._batch_from(policy, first)
            rows = slice(done - first, count - first)
            found = to_records(
                sampled, rows, decode, first=done, tasks=tasks, columns=columns
            )
            if predictions is not None and processes.is_process_0():
                checksum = append(predictions, found, checksum)
            records += found
            if report is not None:
                report(len(records), count)
        length = self.evaluation.env.max_completion_length
        trace, self._seconds_trace = self._seconds_trace, 0.0
        return dataclasses.replace(
            EvaluationResult.of(records, length, common).measured_by(own),
            seconds=time.perf_counter() - compiled,
            seconds_compile=trace + compiled - start,
        )

    def _header(self, policy: AbstractPolicy) -> dict[str, object]:
        """Everything that completions and their rewards depend on."""
        of, reward, own = self.evaluation, {}, self.evaluation.own_measures
        if of.reward is not None:
            reward = {"reward": describe(of.reward), "judge": fingerprint(of.reward)}
        return {
            "problems": of.count,
            "samples": of.samples,
            "success": of.success or "correct",
            "training_answer": self._common_answer,
            "split": of.split,
            "max_completion_length": of.env.max_completion_length,
            "sampler": settings(of.sampler),
            "key": jr.key_data(self._key).tolist(),
            "environment": settings(of.env),
            "data": fingerprint(of.env),
            **reward,
            **({} if own is None else {"columns": list(own.columns)}),
            "model": fingerprint(policy),
        }


@eqx.filter_jit
def _gold(env: AbstractAnswerEnvironment) -> Int[Array, " problem"]:
    gold = jax.vmap(lambda i: env.gold(env.problem(i)[0]))(jnp.arange(env.size))
    return mesh.replicate(gold)


def _most_frequent(env: AbstractAnswerEnvironment) -> Answer:
    return most_frequent(jax.device_get(_gold(env)).tolist())


def evaluations_of(
    given: "Mapping[str, Evaluation | Evaluator]",
) -> "dict[str, Evaluation]":
    """Evaluations by name, of which some have been traced."""
    return {
        name: x.evaluation if isinstance(x, Evaluator) else x
        for name, x in given.items()
    }
