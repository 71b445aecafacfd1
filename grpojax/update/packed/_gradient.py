"""Gradients of packed rows, accumulated over microbatches."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ... import sharding
from ...policy import AbstractPolicy
from ...types import accumulation_dtype, FloatLike
from .._log_prob import LogProbs
from ._rows import (
    Columns,
    Earlier,
    extend_shards,
    PackedRows,
    prefill_prompts,
    write,
)
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


_Carry = tuple[_Sums, PyTree]


def packed_gradient(
    policy: AbstractPolicy,
    rows: PackedRows,
    loss: Loss,
    *,
    temperature: FloatLike = 1.0,
    vocab_size: int | None = None,
    chunk: int | None = None,
    shares: Float[Array, " expert"] | None = None,
) -> tuple[PyTree, PyTree]:
    """Gradient with respect to the trainable arrays, and metrics, of packed rows.

    Both are accumulated over microbatches. The cotangent of the prompts' keys and
    values is accumulated too, and pulled back through the prompts at the end.

    **Arguments:**

    - `shares`: as in `Scorer`; the loss is then given the balance of each token, too.
    """
    params, static = eqx.partition(policy, policy.trainable())
    combine = lambda params: eqx.combine(params, static)
    score = Scorer(rows, temperature, vocab_size, chunk, shares)
    cache, pull_prompts = _prompt_vjp(params, combine, rows)
    accumulate = _Accumulate(params, combine, score, cache, loss)
    carry = _Sums.zeros(params, cache), accumulate.no_loss()[1]
    sums, metrics = rows.fold(accumulate.split, accumulate.unsplit, carry)
    return pull_prompts(sums).params, metrics


class _Accumulate(NamedTuple):
    """Adds a microbatch's gradient and metrics to `carry`, the sums of both.

    **Fields:**

    - `params`, `combine`: the trainable arrays, and how they become the policy.
    - `score`, `cache`: of the packed rows; keys and values of their prompts.
    - `loss`: of the rows that end in a microbatch.
    """

    params: PyTree
    combine: Callable[[PyTree], AbstractPolicy]
    score: Scorer
    cache: PyTree
    loss: Loss

    def unsplit(self, microbatch: Int[Array, ""], carry: _Carry) -> _Carry:
        """A microbatch without a split row."""
        sums, metrics = carry
        rows = self.score.rows
        source = rows.source(microbatch)
        chunk = rows.chunk(source)
        found, pull = jax.vjp(
            lambda params, cache: self.score(self.combine(params), chunk, cache)[0],
            self.params,
            self.cache,
        )
        cotangent, more = self._differentiate_loss(microbatch, found, None)
        return sums.add(*pull(rows.to_columns(source, cotangent))), metrics + more

    def split(self, microbatch: Int[Array, ""], carry: _Carry) -> _Carry:
        """A microbatch, and with a split row's last chunk all of its earlier ones.

        The cotangent of the loss is known after the last chunk; that of a chunk's keys
        and values, after all later chunks.
        """
        sums, metrics = carry
        rows, policy = self.score.rows, self.combine(self.params)
        count, window, earlier = self.score.earlier(policy, self.cache, microbatch)

        def back(step, carry):
            sums, of_window, cotangent, more = carry
            number = count - step
            source = rows.split_source(microbatch, number, step == 0)
            chunk = rows.chunk(source)
            found, pull = jax.vjp(
                lambda params, *past: self.score(self.combine(params), chunk, *past),
                self.params,
                self.cache,
                window,
            )
            cotangent, more = jax.lax.cond(
                step == 0,
                lambda: self._differentiate_loss(microbatch, found[0], earlier),
                lambda: (cotangent, more),
            )
            put = lambda own: write(policy, window, own, number * rows.size)
            # Nothing attends to the last chunk: there it is zero.
            (of_own,) = jax.vjp(put, found[1])[1](of_window)
            pulled = pull((rows.to_columns(source, cotangent), of_own))
            of_window = jax.tree.map(jnp.add, of_window, pulled[2])
            return sums.add(*pulled[:2]), of_window, cotangent, more

        zeros = jax.tree.map(jnp.zeros_like, window)
        start = sums, zeros, *self.no_loss()
        sums, _, _, more = jax.lax.fori_loop(0, count + 1, back, start)
        return sums, metrics + more

    def _differentiate_loss(
        self, microbatch: Int[Array, ""], columns: Columns, earlier: Earlier | None
    ) -> tuple[LogProbs, PyTree]:
        """The loss's cotangent of the log-probs of all rows, and its metrics."""
        found = self.score.rows.to_rows(microbatch, columns, earlier)
        return jax.grad(self.loss, has_aux=True)(*found)

    def no_loss(self) -> tuple[LogProbs, PyTree]:
        """The cotangent and the metrics of no rows."""
        tokens = self.score.rows.tokens
        shape = tokens.shape[0] * tokens.shape[1], *tokens.shape[2:]
        zeros = jnp.zeros(shape, jnp.float32)
        included = jax.ShapeDtypeStruct(shape[:2], jnp.bool_)
        every = (zeros,) * self.score.values
        metrics = jax.eval_shape(self.loss, every, included)[1]
        return every, metrics.zeros()


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
