"""Splitting of a batch into minibatches and microbatches."""

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


def join(split_rows: Array) -> Array:
    """The inverse of `split` for rows, when no group was split."""
    x = jnp.moveaxis(split_rows, 0, 1)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def microbatch_sizes(microbatches: int, group: int) -> tuple[int, int]:
    """(chunks along the prompt axis, streams per prompt in each microbatch)."""
    by_stream = math.gcd(microbatches, group)
    return microbatches // by_stream, group // by_stream


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


def check_microbatches(name: str, microbatches: int, prompts: int, group: int):
    """Raises a `ValueError` if `microbatch_sizes` does not divide the prompts."""
    check_count(name, microbatches)
    chunks, _ = microbatch_sizes(microbatches, group)
    if prompts % chunks:
        raise ValueError(
            f"{name} must divide the group, or share a divisor with it and divide the "
            f"prompts by the rest. Received {name}={microbatches} for {prompts} prompts"
            f" x {group} samples"
            + (" (of a minibatch)." if name == "microbatches" else ".")
        )
