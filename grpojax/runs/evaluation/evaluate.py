"""How good a policy is on the problems of a data set."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Int, Key

from ... import rollout
from ...env import AbstractAnswerEnvironment, AbstractDatasetEnvironment
from ...policy import AbstractPolicy
from ...sharding import spmd
from ...text import AbstractTokenizer
from ..distributed import mesh as placement, processes
from ..io.fingerprint import fingerprint, settings
from .batch import complete, on_the_host
from .predictions import append, resume
from .result import concatenate, Evaluation as Evaluation
from .statistics import most_frequent


def evaluate(
    policy: AbstractPolicy,
    env: AbstractDatasetEnvironment,
    *,
    samples: int = 1,
    sampler: rollout.AbstractSampler = rollout.Categorical(),
    success: str = "correct",
    problems: int | None = None,
    batch: int = 64,
    slots: int | None = None,
    training: AbstractAnswerEnvironment | None = None,
    predictions: str | os.PathLike[str] | None = None,
    tokenizer: AbstractTokenizer | None = None,
    labels: Mapping[str, object] | None = None,
    report: Callable[[int, int], None] | None = None,
    key: Key[Array, ""],
) -> Evaluation:
    """Puts a data set's first problems to a policy.

    On a mesh, as `jax.set_mesh` has set it, problems are dealt out over its devices.
    They are taken in order, batch by batch through one compiled program. A sample's
    randomness is that of its own number, so what is said does not depend on `batch`,
    on `slots` or on where an evaluation was interrupted, but for rounding in the last
    bit, by which two tokens that are equally good may change places.

    **Arguments:**

    - `policy`: what is judged.
    - `env`: asks and judges.
    - `samples`: completions of each problem.
    - `sampler`: how they are drawn; `rollout.Greedy()` for the likeliest.
    - `success`: the component of the rewards that is 1 for a right answer, else 0.
    - `problems`: how many; all that there are when `None`.
    - `batch`: how many at a time; on a mesh rounded up to what can be dealt out.
    - `slots`: how many completions are decoded at a time; see `rollout.complete`.
    - `training`: what the policy was trained on: its most frequent answer is guessed.
    - `predictions`: a file to which what was said is appended, batch by batch. If it
        holds some of it already, that is read and not sampled again.
    - `tokenizer`: turns what was said into text for that file.
    - `labels`: what else its header says, such as the name of the split.
    - `report`: is given how many problems are done, and how many there are, as it goes.
    - `key`: the same key draws the same completions; the key is consumed.

    **Raises:** `ValueError` for sizes that are not positive, or more problems than
    there are, or a file of predictions that another evaluation began.
    """
    count = _check(env, problems=problems, samples=samples, batch=batch)
    if predictions is not None and tokenizer is None:
        raise ValueError(
            "evaluate(predictions=...) writes text, which needs a tokenizer. Received "
            "tokenizer=None: pass the policy's."
        )
    start, shards = time.perf_counter(), spmd.shards()
    # Every part of a mesh has as many problems.
    batch = -(-min(batch, count) // shards) * shards
    static = dict(batch=batch, samples=samples, slots=slots, success=success)
    arguments = lambda first: (
        policy, env, sampler, np.int32(first), np.int32(count), key
    )  # fmt: skip
    # Traced before a file is begun: what does not fit leaves nothing behind.
    lowered = complete.lower(  # pyright: ignore[reportFunctionMemberAccess]
        *arguments(0), **static
    )
    common = None if training is None else most_frequent(_answers(training))
    parts: list[Evaluation] = []
    if predictions is not None or processes.is_multihost():
        asked = dict(problems=count, samples=samples, success=success)
        asked |= dict(training_answer=common, **(labels or {}))
        header = {**asked, **_identity(policy, env, sampler, key)}
        begin = lambda: None if predictions is None else resume(predictions, header)
        found = processes.broadcast_from_0(begin)
        parts += [] if found is None else [found]
    done = sum(len(part.gold) for part in parts)
    program = lowered.compile() if done < count else None
    compiled = time.perf_counter()
    while program is not None and done < count:
        # Always the same batches: of one that a kill has halved, the whole is sampled
        # again, so that the rest is what it would have been to the last bit.
        first = done - done % batch
        rows = slice(done - first, count - first)
        said = program(*arguments(first), **static)
        part = on_the_host(said, rows, success=success, training_answer=common)
        if (
            predictions is not None
            and tokenizer is not None
            and processes.is_process_0()
        ):
            append(predictions, part, tokenizer.decode, first=done)
        parts.append(part)
        done += len(part.gold)
        if report is not None:
            report(done, count)
    return dataclasses.replace(
        concatenate(parts),
        seconds=time.perf_counter() - compiled,
        seconds_compile=compiled - start,
    )


def _check(
    env: AbstractDatasetEnvironment, *, problems: int | None, samples: int, batch: int
) -> int:
    """How many problems there are to put."""
    count = env.size if problems is None else problems
    if not 1 <= count <= env.size:
        raise ValueError(
            f"evaluate: problems must be between 1 and the {env.size} that the "
            f"environment has. Received {problems}."
        )
    for name, size in (("samples", samples), ("batch", batch)):
        if size < 1:
            raise ValueError(
                f"evaluate: {name} must be a positive integer. Received {size}."
            )
    return count


@eqx.filter_jit
def _gold(env: AbstractAnswerEnvironment) -> Int[Array, " problem"]:
    gold = jax.vmap(lambda i: env.gold(env.problem(i)[0]))(jnp.arange(env.size))
    return placement.replicate(gold)


def _answers(env: AbstractAnswerEnvironment) -> list[int]:
    return jax.device_get(_gold(env)).tolist()


def _identity(
    policy: AbstractPolicy,
    env: AbstractDatasetEnvironment,
    sampler: rollout.AbstractSampler,
    key: Key[Array, ""],
) -> dict[str, object]:
    """What completions depend on: an evaluation with another is another one."""
    return {
        "max_completion_length": env.max_completion_length,
        "sampler": settings(sampler),
        "key": jr.key_data(key).tolist(),
        "environment": settings(env),
        "data": fingerprint(env),
        "model": fingerprint(policy),
    }
