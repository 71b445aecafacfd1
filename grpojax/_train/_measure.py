"""Rollout metrics."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from .. import advantage, masked
from ..types import Metrics, Rewards, Trajectory


def measure(
    trajectory: Trajectory, rewards: Rewards, tasks: Mapping[str, int] | None = None
) -> Metrics:
    """Rollout metrics, under TRL's names where the meaning is the same.

    A component named `correct`, 1 for a right answer and else 0, tells right rows from
    wrong ones.

    **Arguments:**

    - `trajectory`, `rewards`: of one step.
    - `tasks`: the number of problems of each task, as `env.tasks`; the trajectory's
        problems are counted through them.
    """
    dtype = jnp.result_type(float)
    total, valid, ended = rewards.total, rewards.valid, trajectory.terminated
    lengths = trajectory.lengths.astype(dtype)
    everyone = jnp.ones_like(ended)
    flat = ~advantage.nonzero_variance(dataclasses.replace(rewards, keep=everyone))
    metrics = {
        "reward": masked.mean(total, valid),
        "reward_std": jnp.mean(masked.std(total, valid, axis=1, ddof=1)),
        "frac_reward_zero_std": jnp.mean(flat, dtype=dtype),
        "num_tokens": jnp.sum(lengths),
        "completions/clipped_ratio": jnp.mean(~ended, dtype=dtype),
    }
    for name, component in rewards.components.items():
        paid = component.astype(dtype)
        applies = valid & ~jnp.isnan(paid)
        metrics[f"rewards/{name}/mean"] = masked.mean(paid, applies)
        metrics[f"rewards/{name}/std"] = masked.std(paid, applies, ddof=1)
    for name, failed in rewards.errors.items():
        metrics[f"rewards/{name}/errors"] = jnp.sum(failed, dtype=dtype)
        metrics[f"rewards/{name}/frac_errors"] = jnp.mean(failed, dtype=dtype)
    metrics |= _counted(trajectory)
    kinds = {"": everyone, "terminated_": ended}
    if "correct" in rewards.components:
        correct = rewards.components["correct"]
        kinds |= {"correct_": correct > 0, "wrong_": correct <= 0}
    for kind, rows in kinds.items():
        shortest = jnp.min(jnp.where(rows, lengths, jnp.inf))
        metrics[f"completions/mean_{kind}length"] = masked.mean(lengths, rows)
        metrics[f"completions/min_{kind}length"] = jnp.where(rows.any(), shortest, 0)
        metrics[f"completions/max_{kind}length"] = jnp.max(masked.fill(lengths, rows))
    for task, prompts in _by_task(trajectory, tasks or {}):
        rows, asked = everyone & prompts[:, None], prompts.any()
        metrics |= {
            f"prompts/{task}": jnp.sum(prompts, dtype=dtype),
            # A mean over no rows is no number here: curves of a task have no zeros for
            # steps that did not ask it.
            f"reward/{task}": jnp.where(
                (rows & valid).any(), masked.mean(total, rows & valid), jnp.nan
            ),
            f"completions/mean_length/{task}": jnp.where(
                asked, masked.mean(lengths, rows), jnp.nan
            ),
        }
    return metrics


def measure_staleness(trajectory: Trajectory, version: Int[Array, ""]) -> Metrics:
    """How many versions the policies that sampled are older than the one trained.

    **Arguments:**

    - `trajectory`: has the version of each token.
    - `version`: of the policy that is trained.
    """
    behind = (version - trajectory.version).astype(jnp.result_type(float))
    return {
        "staleness/mean": masked.mean(behind, trajectory.sampled),
        "staleness/max": jnp.max(masked.fill(behind, trajectory.sampled)),
    }


def _counted(trajectory: Trajectory) -> Metrics:
    """Metrics of what a rollout on the host has counted."""
    dtype, counts, found = jnp.result_type(float), trajectory.counts, {}
    if "rejected" in counts:
        found["environment/rejected"] = jnp.sum(counts["rejected"], dtype=dtype)
    if "calls" in counts:
        calls = jnp.sum(counts["calls"], dtype=dtype)
        failures = jnp.sum(counts["failures"], dtype=dtype)
        found["tools/call_frequency"] = calls / trajectory.terminated.size
        found["tools/failure_frequency"] = failures / jnp.maximum(calls, 1)
    return found


def _by_task(
    trajectory: Trajectory, tasks: Mapping[str, int]
) -> Iterator[tuple[str, Bool[Array, " prompt"]]]:
    """The prompts of each task."""
    first, problems = 0, trajectory.problems
    for task, size in tasks.items():
        if problems is not None:
            yield task, (problems >= first) & (problems < first + size)
        first += size
