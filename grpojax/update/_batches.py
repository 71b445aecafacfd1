"""The batch of an update: its constants, and how it is split into minibatches."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..policy import AbstractPolicy
from ..types import Prompt, Trajectory
from ._config import check_count, UpdateConfig
from .loss import Batch, Objective
from .packed import masked_log_probs


Reference = AbstractPolicy | Callable[..., AbstractPolicy]
"""A KL reference policy, or a function that extracts it from the trained policy."""


def split(
    count: int, prompt: Prompt, rows: PyTree[Array, " T"]
) -> tuple[Prompt, PyTree[Array, " T"]]:
    """Splits prompts and their rows into batches on a new leading axis.

    Batch `i` takes every `count`-th prompt, so that prompts which are sharded over
    devices stay sharded the same way; with more batches than prompts, the members of a
    group are split in the same manner.

    **Arguments:**

    - `count`: how many batches.
    - `prompt`: `Prompt[prompt prefix]`.
    - `rows`: arrays `[prompt group ...]`.
    """
    by_prompt = math.gcd(count, prompt.length.shape[0])
    by_group = count // by_prompt

    def strided(x, axis, stride):
        size = x.shape[axis] // stride
        shape = (*x.shape[:axis], size, stride, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis + 1, 0)

    def split_rows(x):
        batches = strided(strided(x, 0, by_prompt), 2, by_group)
        return jnp.moveaxis(batches, 1, 0).reshape(count, *batches.shape[2:])

    shared = lambda x: jnp.repeat(strided(x, 0, by_prompt), by_group, axis=0)
    return jax.tree.map(shared, prompt), jax.tree.map(split_rows, rows)


def check_minibatches(minibatches: int, prompts: int, group: int) -> tuple[int, int]:
    """Prompts and samples of a minibatch.

    **Raises:** `ValueError` if the batch does not divide.
    """
    check_count("minibatches", minibatches)
    by_prompt = math.gcd(minibatches, prompts)
    by_group = minibatches // by_prompt
    if group % by_group:
        raise ValueError(
            "minibatches must divide the prompts, or share a divisor with them and "
            f"divide the group by the rest. Received minibatches={minibatches} for "
            f"{prompts} prompts x {group} samples."
        )
    return prompts // by_prompt, group // by_group


def make_batch(
    policy: AbstractPolicy,
    trajectory: Trajectory,
    advantages: Float[Array, "prompt group *time"],
    keep: Bool[Array, "prompt group"] | None,
    objective: Objective,
    others: tuple[Reference | None, AbstractPolicy | None],
    config: UpdateConfig,
    tokens: int,
) -> Batch:
    """Constants of the loss: advantages, mask, and log-probs of all other policies.

    **Arguments:**

    - `others`: the reference and the teacher, if there are any.
    """
    reference, teacher = others
    mask = trajectory.sampled
    mask = mask if keep is None else mask & keep[:, :, None]
    recompute = _recomputes(objective, config)

    def log_probs(policy: AbstractPolicy):
        return masked_log_probs(
            policy,
            trajectory.prompt,
            trajectory.tokens,
            mask,
            tokens,
            temperature=trajectory.temperature,
            vocab_size=trajectory.vocab_size,
            chunk=config.chunk,
        )

    once = config.epochs * config.minibatches == 1
    old, entropy = trajectory.log_prob, None
    if objective.entropy_filter is not None or (recompute and not once):
        log_prob, entropy = log_probs(policy)
        old = log_prob if recompute else old
    if recompute and once:
        # The old policy is the current one: the ratio is exactly 1; skip recomputing.
        old = None
    if reference is not None and not isinstance(reference, AbstractPolicy):
        reference = reference(policy)
    return Batch(
        advantage=advantages if advantages.ndim == 3 else advantages[:, :, None],
        mask=mask,
        old=old,
        behavior=trajectory.log_prob,
        reference=None if reference is None else log_probs(reference)[0],
        entropy=entropy,
        teacher=None if teacher is None else log_probs(teacher)[0],
    )


def _recomputes(objective: Objective, config: UpdateConfig) -> bool:
    """Whether to recompute old log-probs; by default only for importance correction."""
    if config.recompute is None:
        return objective.importance is not None
    if objective.importance is not None and not config.recompute:
        raise ValueError(
            "An importance correction compares recomputed old log-probs with those "
            "that the sampler recorded. Received recompute=False, which takes the "
            "record for both, so that every weight would be 1. Leave recompute at its "
            "default, or leave the correction out."
        )
    return config.recompute
