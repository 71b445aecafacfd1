"""How good a policy is on the problems of a data set."""

import dataclasses
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from .. import rollout
from ..env import AbstractDatasetEnvironment
from ..policy import AbstractPolicy
from ..types import Prompt, Trajectory
from .statistics import wilson


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a policy said to every problem, and how often it was right; on the host.

    **Fields:**

    - `right`: whether a sample answers its problem.
    - `rewards`: what the environment paid, by component.
    - `lengths`: sampled tokens.
    - `terminated`: whether a sample said its end token; the others were truncated.
    - `prompts`, `tokens`: what was read and said, 0 past the end.
    - `seconds`, `seconds_compile`: how long it took, compilation apart.
    """

    right: Bool[np.ndarray, "problem sample"]
    rewards: dict[str, Float[np.ndarray, "problem sample"]]
    lengths: Int[np.ndarray, "problem sample"]
    terminated: Bool[np.ndarray, "problem sample"]
    prompts: list[Int[np.ndarray, " _"]]
    tokens: Int[np.ndarray, "problem sample time"]
    seconds: float
    seconds_compile: float

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
        """Wilson's 95% interval of the accuracy.

        With several samples of a problem it is what these problems' accuracy is known
        to; it says nothing about other problems.
        """
        return wilson(int(np.sum(self.right)), self.count)

    @property
    def mean_length(self) -> float:
        """Sampled tokens of a completion."""
        return float(np.mean(self.lengths))

    @property
    def clipped_ratio(self) -> float:
        """The share of samples that were truncated."""
        return float(np.mean(~self.terminated))


@eqx.filter_jit
def _complete(
    policy: AbstractPolicy,
    env: AbstractDatasetEnvironment,
    indices: Int[Array, " prompt"],
    sampler: rollout.AbstractSampler,
    key: Key[Array, ""],
    *,
    samples: int,
    slots: int | None,
    success: str,
) -> Trajectory:
    states, prompts = jax.vmap(env.problem)(indices)
    trajectory = rollout.complete(
        policy,
        env,
        states,
        prompts,
        group=samples,
        slots=slots,
        sampler=sampler,
        key=key,
    )
    if success not in trajectory.rewards:
        raise ValueError(
            "evaluate(success=...) names the component that is 1 for a right answer. "
            f"Received {success!r}; the environment pays {sorted(trajectory.rewards)}."
        )
    return trajectory


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
    key: Key[Array, ""],
) -> Evaluation:
    """Puts a data set's first problems to a policy.

    They are taken in order, batch by batch through one compiled program; what the last
    batch has too many is thrown away.

    **Arguments:**

    - `policy`: what is judged.
    - `env`: asks and judges.
    - `samples`: completions of each problem.
    - `sampler`: how they are drawn; `rollout.Greedy()` for the likeliest.
    - `success`: the component of the rewards that is 1 for a right answer, else 0.
    - `problems`: how many; all that there are when `None`.
    - `batch`: how many at a time.
    - `slots`: how many completions are decoded at a time; see `rollout.complete`.
    - `key`: the same key and batch draw the same completions; the key is consumed.

    **Raises:** `ValueError` for sizes that are not positive, or more problems than
    there are.
    """
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
    batch = min(batch, count)
    static = dict(samples=samples, slots=slots, success=success)

    def arguments(first: int):
        indices = jnp.minimum(jnp.arange(first, first + batch), count - 1)
        return policy, env, indices, sampler, jr.fold_in(key, first)

    start = time.perf_counter()
    lowered = _complete.lower(  # pyright: ignore[reportFunctionMemberAccess]
        *arguments(0), **static
    )
    program = lowered.compile()
    compiled = time.perf_counter()
    parts = [
        # One transfer for each batch, of what is kept and nothing more.
        jax.device_get(_kept(program(*arguments(first), **static)))
        for first in range(0, count, batch)
    ]
    whole = jax.tree.map(lambda *x: np.concatenate(x)[:count], *parts)
    prompt, rewards, lengths, terminated, tokens = whole
    return Evaluation(
        right=rewards[success] > 0.5,
        rewards=rewards,
        lengths=lengths,
        terminated=terminated,
        prompts=[
            row[:length]
            for row, length in zip(prompt.tokens, prompt.length, strict=True)
        ],
        tokens=tokens,
        seconds=time.perf_counter() - compiled,
        seconds_compile=compiled - start,
    )


def _kept(
    trajectory: Trajectory,
) -> tuple[Prompt, dict[str, Array], Array, Array, Array]:
    return (
        trajectory.prompt,
        trajectory.rewards,
        trajectory.lengths,
        trajectory.terminated,
        trajectory.tokens,
    )
