"""Gradients of packed rows, accumulated over microbatches."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from ... import sharding
from ...policy import AbstractPolicy
from ...types import accumulation_dtype, FloatLike
from .._log_prob import LogProbs
from ._chunks import split_source
from ._rows import extend_shards, PackedRows, prefill_prompts, write
from ._score import Scorer


Loss = Callable[[LogProbs, Bool[Array, "prompt group"]], tuple[Array, PyTree]]
"""(log-probs, rows of this microbatch) -> loss and metrics."""


class _Sums(eqx.Module):
    """Cotangents that are accumulated over microbatches, in float32 at least."""

    params: PyTree
    context: PyTree

    @staticmethod
    def zeros(params: PyTree, context: PyTree) -> "_Sums":
        wide = lambda x: jnp.zeros(x.shape, accumulation_dtype(x.dtype))
        params, context = jax.tree.map(wide, (params, context))
        return _Sums(sharding.constrain(params), context)

    def add(self, params: PyTree, context: PyTree) -> "_Sums":
        fresh = _Sums(sharding.constrain(params), context)
        return jax.tree.map(lambda x, y: x + y.astype(x.dtype), self, fresh)


def packed_gradient(
    policy: AbstractPolicy,
    rows: PackedRows,
    loss: Loss,
    *,
    temperature: FloatLike = 1.0,
    chunk: int | None = None,
) -> tuple[PyTree, PyTree]:
    """Gradient with respect to the trainable arrays, and metrics, of packed rows.

    Both are accumulated over microbatches. The cotangent of the prompts' keys and
    values is accumulated too, and pulled back through the prompts at the end.
    """
    params, static = eqx.partition(policy, policy.trainable())
    combine = lambda params: eqx.combine(params, static)
    score = Scorer(rows, temperature, chunk)
    cache, pull_prompts = _prompt_vjp(params, combine, rows)

    def one(microbatch, sums: _Sums) -> tuple[_Sums, PyTree]:
        count, window, earlier = score.earlier(policy, cache, microbatch)
        found, pull = jax.vjp(
            lambda *each: score(
                combine(each[0]), rows.last_chunk(microbatch), *each[1:]
            ),
            params,
            cache,
            window,
        )
        by_row, included = rows.to_rows(microbatch, found[0], earlier)
        cotangent, metrics = jax.grad(loss, has_aux=True)(by_row, included)
        last = lambda packing: packing.source[microbatch]
        of_own = jax.tree.map(jnp.zeros_like, found[1])
        of = pull((rows.to_columns(last, cotangent), of_own))
        sums = sums.add(*of[:2])
        if window is not None:
            pulled = sums, count, window, of[2], cotangent
            sums = _pull_earlier(params, combine, score, cache, microbatch, *pulled)
        return sums, metrics

    shape = rows.tokens.shape[0] * rows.tokens.shape[1], *rows.tokens.shape[2:]
    by_row = (jax.ShapeDtypeStruct(shape, jnp.float32),) * 2
    included = jax.ShapeDtypeStruct(shape[:2], jnp.bool_)
    metrics = jax.eval_shape(loss, by_row, included)[1].zeros()

    def add(microbatch, carry):
        sums, metrics = carry
        sums, more = one(microbatch, sums)
        return sums, metrics + more

    start = _Sums.zeros(params, cache), metrics
    sums, metrics = jax.lax.fori_loop(0, rows.microbatches, add, start)
    return pull_prompts(sums).params, metrics


def _pull_earlier(
    params: PyTree,
    combine: Callable[[PyTree], AbstractPolicy],
    score: Scorer,
    cache: PyTree,
    microbatch: Int[Array, ""],
    sums: _Sums,
    count: Int[Array, ""],
    window: PyTree,
    of_window: PyTree,
    cotangent: LogProbs,
) -> _Sums:
    """Pulls back through the earlier chunks of a split row, the last one first.

    **Arguments:**

    - `params`, `combine`, `score`, `cache`, `microbatch`: of the forward pass.
    - `sums`: what is accumulated.
    - `count`, `window`: the number of chunks, and their keys and values.
    - `of_window`: the cotangent of those, from the row's last chunk.
    - `cotangent`: of the log-probs of all rows.
    """
    rows = score.rows

    def back(step, carry):
        sums, of_window = carry
        number = count - 1 - step
        chunk = rows.earlier_chunk(microbatch, number)
        found, pull = jax.vjp(
            lambda params, *past: score(combine(params), chunk, *past),
            params,
            cache,
            window,
        )
        source = lambda packing: split_source(
            packing, microbatch, number, rows.tokens.shape[-1]
        )
        at = number * rows.size
        put = lambda own: write(combine(params), window, own, at)
        (of_own,) = jax.vjp(put, found[1])[1](of_window)
        more = pull((rows.to_columns(source, cotangent), of_own))
        return sums.add(*more[:2]), jax.tree.map(jnp.add, of_window, more[2])

    return jax.lax.fori_loop(0, count, back, (sums, of_window))[0]


def _prompt_vjp(
    params: PyTree, combine: Callable[[PyTree], AbstractPolicy], rows: PackedRows
) -> tuple[PyTree, Callable[[_Sums], _Sums]]:
    """The prompts' keys and values, and how their cotangent is added to the params'.

    One chunk of prompts keeps its residuals; several are run again, from the last one
    to the first.
    """
    narrow = lambda sums: jax.tree.map(lambda x, y: x.astype(y.dtype), sums, cache)
    chunks, size = rows.prompts.owner.shape[1:]
    if chunks == 1:
        cache, pull = jax.vjp(lambda x: prefill_prompts(combine(x), rows), params)

        def pull_all(sums: _Sums) -> _Sums:
            (gradient,) = pull(narrow(sums.context))
            return sums.add(gradient, sums.context)

        return cache, pull_all
    policy = combine(params)
    cache = prefill_prompts(policy, rows)
    used = jnp.max(rows.prompts.used)

    def back(step, sums: _Sums) -> _Sums:
        number = used - 1 - step
        at = number * size

        def run(params, cache):
            chunk = rows.prompt_chunk(number)
            context = rows.context(cache)
            return extend_shards(combine(params), chunk, context, columns=at)[1]

        own, pull = jax.vjp(run, params, cache)
        _, pull_write = jax.vjp(lambda own: write(policy, cache, own, at), own)
        (of_own,) = pull_write(narrow(sums.context))
        return sums.add(*pull(of_own))

    return cache, lambda sums: jax.lax.fori_loop(0, used, back, sums)
