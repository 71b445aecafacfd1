"""Wrappers of optax optimizers: stochastic rounding, recorded learning rate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, DTypeLike, Float, Int, Key, PyTree

from ..types import accumulation_dtype


class LearningRateState(NamedTuple):
    """The number of updates, and the learning rate of the last one."""

    updates: Int[Array, ""]
    learning_rate: Float[Array, ""]


def with_learning_rate(
    optimizer: optax.GradientTransformation, schedule: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """An optimizer whose state also records its learning rate.

    It then appears in the metrics of `improve`, as `learning_rate`. The updates do not
    change: the schedule is evaluated a second time.

    **Arguments:**

    - `optimizer`: an optax transformation that uses the schedule.
    - `schedule`: the number of updates -> learning rate, or a constant.

    **Returns:** the optimizer; the record is appended to its state, so that the other
    arrays of a tuple, such as that of `optax.chain`, keep their paths. Another state
    becomes the first of two.

    !!! example

        ```python
        schedule = optax.cosine_decay_schedule(1e-5, 100)
        optimizer = update.with_learning_rate(optax.adamw(schedule), schedule)
        ```
    """

    def rate(count: Int[Array, ""]) -> Float[Array, ""]:
        value = schedule(count) if callable(schedule) else schedule
        return jnp.asarray(value, jnp.float32)

    def init(params: optax.Params) -> tuple:
        count = jnp.zeros((), jnp.int32)
        inner: PyTree = optimizer.init(params)
        inner = inner if _is_plain_tuple(inner) else (inner,)
        return (*inner, LearningRateState(count, rate(count)))

    def update(
        updates: optax.Updates, state: PyTree, params: optax.Params | None = None
    ) -> tuple[optax.Updates, PyTree]:
        *inner, record = state
        # Only the optimizer knows whether a tuple of one is its state: masks and labels
        # fit no other tree than the weights', whose structure the gradients have.
        appended = _is_plain_tuple(jax.eval_shape(optimizer.init, updates))
        inner = tuple(inner) if appended else inner[0]
        new: PyTree
        updates, new = optimizer.update(updates, inner, params)
        new = new if appended else (new,)
        record = LearningRateState(record.updates + 1, rate(record.updates))
        return updates, (*new, record)

    return optax.GradientTransformation(init, update)


def _is_plain_tuple(state: PyTree) -> bool:
    """Whether a state is a tuple, and no named one."""
    return type(state) is tuple


class RoundingState(NamedTuple):
    """The wrapped optimizer's state, and the number of updates."""

    updates: Int[Array, ""]
    inner: optax.OptState


def stochastic_round(
    x: Float[Array, "*shape"], *, key: Key[Array, ""]
) -> Float[Array, "*shape"]:
    """Stochastic rounding to bfloat16: E[rounded] = x.

    Each number becomes one of its two bfloat16 neighbors, the nearer one with the
    higher probability. Numbers that bfloat16 represents, infinities and NaN are kept.

    **Arguments:**

    - `x`: float32.
    - `key`: draws 16 bits for each number; consumed.

    **Returns:** the same shape in bfloat16.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jr.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    upper = ((bits + noise) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def stochastic_rounding(
    optimizer: optax.GradientTransformation, *, state_dtype: DTypeLike
) -> optax.GradientTransformation:
    """An optimizer that computes in float32, with stochastic rounding of its storage.

    Weights and moments that are stored in bfloat16 are rounded by `stochastic_round`.
    Rounding to nearest would drop every update of a weight that is smaller than 1/512
    of it, and would never let Adam's second moment decay, by a thousandth each time.

    **Arguments:**

    - `optimizer`: an optax transformation.
    - `state_dtype`: of its arrays that mirror weights, such as moments: float32 or
        bfloat16. That of a weight is its own.

    **Raises:** `ValueError` for another dtype, and from `update` without `params`.

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
                "stochastic_rounding rounds weights, and not updates. Received no "
                "params: call "
                "`optimizer.update(gradients, state, params)`."
            )
        count, kept = state
        exact = _wide(params)
        updates, inner = optimizer.update(_wide(updates), _wide(kept), exact)
        state_key, weight_key = jr.split(jr.fold_in(jr.key(0), count))
        inner = _rounded(inner, kept, state_key)
        moved = _rounded(jax.tree.map(jnp.add, exact, updates), params, weight_key)
        # The difference, so that adding it to the weights gives the rounded ones.
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
    """The tree with 16-bit floats in float32."""
    wide = lambda x: x.astype(accumulation_dtype(x.dtype))
    return jax.tree.map(lambda x: wide(x) if _is_float(x) else x, tree)


def _rounded(tree: PyTree, like: PyTree, key: Key[Array, ""]) -> PyTree:
    """The tree in the dtypes of another one."""
    keys = iter(jr.split(key, max(len(jax.tree.leaves(tree)), 1)))

    def one(x, like):
        own = next(keys)
        if x.dtype == jnp.float32 and like.dtype == jnp.bfloat16:
            return stochastic_round(x, key=own)
        return x.astype(like.dtype)

    return jax.tree.map(one, tree, like)
