"""Optimizers that compute in float32 and keep moments and weights in fewer bits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, DTypeLike, Float, Int, Key, PyTree


class RoundingState(NamedTuple):
    """The optimizer's own state, and how many updates there have been."""

    updates: Int[Array, ""]
    inner: optax.OptState


def stochastic_round(
    x: Float[Array, "*shape"], *, key: Key[Array, ""]
) -> Float[Array, "*shape"]:
    """One of the two bfloat16 numbers next to each number, so that E[rounded] = x.

    The nearer one is the likelier one; what bfloat16 holds exactly is kept, and what is
    not finite stays what it is.

    **Arguments:**

    - `x`: float32.
    - `key`: draws 16 bits for each number.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jr.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    upper = ((bits + noise) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def stochastic_rounding(
    optimizer: optax.GradientTransformation, *, state_dtype: DTypeLike
) -> optax.GradientTransformation:
    """An optimizer that computes in float32, whatever it and the weights are kept in.

    What is kept in bfloat16 is rounded at random (`stochastic_round`). The nearest
    bfloat16 number would forget every update of a weight below 1/512 of it, and never
    let Adam's second moment shrink, which takes a thousandth off it each time.

    **Arguments:**

    - `optimizer`: an optax transformation.
    - `state_dtype`: of those of its arrays that stand for weights, such as moments:
        float32 or bfloat16.

    !!! example

        ```python
        adamw = optax.adamw(1e-5)
        optimizer = update.stochastic_rounding(adamw, state_dtype="bfloat16")
        ```
    """
    wanted = jnp.dtype(state_dtype)
    if wanted not in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
        raise ValueError(
            "stochastic_rounding(state_dtype=...) takes float32 or bfloat16. Received "
            f"{wanted.name}."
        )

    def init(params: optax.Params) -> RoundingState:
        narrow = lambda x: x.astype(wanted) if _is_float(x) else x
        inner = optax.tree.map_params(optimizer, narrow, optimizer.init(_wide(params)))
        return RoundingState(jnp.zeros((), jnp.int32), inner)

    def update(
        updates: optax.Updates,
        state: PyTree,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, PyTree]:
        if params is None:
            raise ValueError(
                "Weights are rounded, and not their updates. Received none: call "
                "`optimizer.update(gradients, state, params)`."
            )
        count, kept = state
        exact = _wide(params)
        updates, inner = optimizer.update(_wide(updates), _wide(kept), exact)
        state_key, weight_key = jr.split(jr.fold_in(jr.key(0), count))
        inner = _rounded(inner, kept, state_key)
        moved = _rounded(jax.tree.map(jnp.add, exact, updates), params, weight_key)
        # The difference, so that whoever adds it to the weights gets the rounded ones.
        updates = jax.tree.map(
            lambda new, old, update: (
                update
                if new.dtype == update.dtype
                else (new.astype(jnp.float32) - old).astype(new.dtype)
            ),
            moved,
            exact,
            updates,
        )
        return updates, RoundingState(count + 1, inner)

    return optax.GradientTransformation(init, update)


def _is_float(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _wide(tree: PyTree) -> PyTree:
    """A tree with its narrow floats in float32."""
    wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jax.tree.map(lambda x: wide(x) if _is_float(x) else x, tree)


def _rounded(tree: PyTree, like: PyTree, key: Key[Array, ""]) -> PyTree:
    """A tree in the dtypes of another one."""
    keys = iter(jr.split(key, max(len(jax.tree.leaves(tree)), 1)))

    def one(x, like):
        own = next(keys)
        if x.dtype == jnp.float32 and like.dtype == jnp.bfloat16:
            return stochastic_round(x, key=own)
        return x.astype(like.dtype)

    return jax.tree.map(one, tree, like)
