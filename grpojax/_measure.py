"""Rollout metrics."""

import dataclasses

import jax.numpy as jnp

from . import advantage, masked
from .types import Metrics, Rewards, Trajectory


def measure(trajectory: Trajectory, rewards: Rewards) -> Metrics:
    """Rollout metrics, under TRL's names where the meaning is the same.

    A component named `correct`, 1 for a right answer and else 0, tells right rows from
    wrong ones.
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
    kinds = {"": everyone, "terminated_": ended}
    if "correct" in rewards.components:
        correct = rewards.components["correct"]
        kinds |= {"correct_": correct > 0, "wrong_": correct <= 0}
    for kind, rows in kinds.items():
        shortest = jnp.min(jnp.where(rows, lengths, jnp.inf))
        metrics[f"completions/mean_{kind}length"] = masked.mean(lengths, rows)
        metrics[f"completions/min_{kind}length"] = jnp.where(rows.any(), shortest, 0)
        metrics[f"completions/max_{kind}length"] = jnp.max(masked.fill(lengths, rows))
    return metrics
