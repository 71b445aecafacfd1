"""What a run would need, found out without a step."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
from jaxtyping import PyTree

from ..policy import empty_cache
from .training import Setup


class Estimate(NamedTuple):
    """What a run would need.

    **Fields:**

    - `parameters`: how many numbers are trained.
    - `rows`, `prompt_length`, `completion_length`: the shape of a step's samples.
    - `bytes`: of the arrays that a step is known to hold, by name.
    - `program`: what the compiler says that the step needs; see `CompiledStep`.
    - `seconds_compile`: how long tracing and compiling took.
    """

    parameters: int
    rows: int
    prompt_length: int
    completion_length: int
    bytes: dict[str, int]
    program: dict[str, int]
    seconds_compile: float


def estimate(setup: Setup) -> Estimate:
    """Compiles the step that was prepared, and runs nothing.

    The caches are those of decoding: of every prompt, and of every slot's completion.
    """
    recipe, env, state = setup.recipe, setup.environments.train, setup.state
    rows = recipe.rollout.prompts * recipe.rollout.group
    slots = rows if recipe.rollout.slots is None else min(recipe.rollout.slots, rows)
    cache = lambda columns: _bytes(
        jax.eval_shape(lambda: empty_cache(state.policy.for_decoding(), columns))
    )
    compiled = setup.step.compile()
    trained = jax.tree.leaves(eqx.filter(state.policy, state.policy.trainable()))
    return Estimate(
        parameters=sum(x.size for x in trained),
        rows=rows,
        prompt_length=env.max_prompt_length,
        completion_length=env.max_completion_length,
        bytes={
            "parameters": _bytes(state.policy),
            "optimizer": _bytes(state.opt_state),
            "reference": _bytes(state.reference),
            "prompt caches": recipe.rollout.prompts * cache(env.max_prompt_length),
            "completion caches": slots * cache(env.max_completion_length),
        },
        program=compiled.bytes,
        seconds_compile=compiled.seconds,
    )


def _bytes(tree: PyTree) -> int:
    arrays = [
        leaf
        for leaf in jax.tree.leaves(tree)
        if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    ]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)


def describe(estimate: Estimate) -> str:
    """An estimate in a few lines."""
    listed: Callable[[dict[str, int]], str] = lambda sizes: ", ".join(
        f"{name} {readable(size)}" for name, size in sizes.items() if size > 0
    )
    return "\n".join(
        [
            f"shapes {estimate.rows} rows a step: prompts of {estimate.prompt_length} "
            f"tokens at most, completions of {estimate.completion_length}",
            f"params {estimate.parameters:,}",
            f"memory {listed(estimate.bytes)} (counted)",
            f"step   {listed(estimate.program) or 'not known'} (the compiler's word)",
            f"compiled the step in {estimate.seconds_compile:.1f} s; no step was taken "
            "and nothing was written",
        ]
    )


def readable(size: int) -> str:
    """A number of bytes for people."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size} B"
