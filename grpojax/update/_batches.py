"""Splitting of a batch into minibatches."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..types import Prompt
from ._config import check_count


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
