"""Trajectories written down by hand."""

import jax.numpy as jnp
import numpy as np

from grpojax.types import Prompt, Trajectory


def trajectory_of(completions, *, terminated=True, rows=None, **rewards) -> Trajectory:
    """`[prompt group]` lists of tokens, right-padded; prompt `p` is the token `p`."""
    prompts, group = len(completions), len(completions[0])
    width = max(len(row) for of_prompt in completions for row in of_prompt)
    tokens = np.zeros((prompts, group, width), np.int32)
    sampled = np.zeros(tokens.shape, bool)
    for p, of_prompt in enumerate(completions):
        for g, row in enumerate(of_prompt):
            tokens[p, g, : len(row)] = row
            sampled[p, g, : len(row)] = True
    shape = (prompts, group)
    return Trajectory(
        prompt=Prompt(
            jnp.arange(prompts, dtype=jnp.int32)[:, None], jnp.ones(prompts, jnp.int32)
        ),
        tokens=jnp.asarray(tokens),
        sampled=jnp.asarray(sampled),
        log_prob=jnp.zeros(tokens.shape),
        version=jnp.where(sampled, 0, -1),
        terminated=jnp.broadcast_to(jnp.asarray(terminated), shape),
        rewards={name: jnp.asarray(x, jnp.float32) for name, x in rewards.items()},
        temperature=jnp.ones(()),
        problems=jnp.arange(prompts, dtype=jnp.int32),
        rows=rows,
    )


def of_lengths(*lengths, **options) -> Trajectory:
    """One prompt; its rows say 1, 2, 3 ..."""
    return trajectory_of([[list(range(1, n + 1)) for n in lengths]], **options)
