"""Log-probs and gradients in microbatches of packed streams.

Peak memory scales with the microbatch, and compute with the number of tokens: a prompt
is prefilled once for all its microbatches, and empty microbatches are skipped.
"""

import functools as ft
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from .. import sharding
from ..policy import AbstractPolicy, prefill
from ..sharding import spmd
from ..types import accumulation_dtype, FloatLike, Prompt
from ._batches import join, microbatch_sizes, split
from ._log_prob import log_probs, LogProbs
from ._packing import balance_tokens, pack, Packing, to_rows, to_streams


class PackedRows(eqx.Module):
    """Rows packed into streams; each microbatch holds `streams` of them.

    Each data-parallel shard packs its own prompts: arrays have a leading shard axis.
    """

    prompt: Prompt
    tokens: Int[Array, "shard prompt group time"]
    packing: Packing
    streams: int = eqx.field(static=True)

    @property
    def microbatches(self) -> Int[Array, ""]:
        """Number of nonempty microbatches; at least 1, so that metrics are defined."""
        used = jnp.max(self.packing.used)
        return jnp.maximum(-(-used // self.streams), 1)

    def take_streams(self, microbatch: Int[Array, ""], x: Array) -> Array:
        """One shard's streams in one microbatch."""
        start = microbatch * self.streams
        return jax.lax.dynamic_slice_in_dim(x, start, self.streams, axis=0)

    def log_probs(
        self,
        policy: AbstractPolicy,
        context: PyTree,
        microbatch: Int[Array, ""],
        **options,
    ) -> PyTree[Float[Array, "shard stream time"]]:
        """Log-probs and entropies of one microbatch's streams."""

        def one(prompt, tokens, packing, context):
            owner = self.take_streams(microbatch, packing.owner)
            source = self.take_streams(microbatch, packing.source)
            own = lambda x: x[owner]
            found = log_probs(
                policy,
                jax.tree.map(own, prompt),
                to_streams(tokens, source)[:, None],
                context=jax.tree.map(own, context),
                position=self.take_streams(microbatch, packing.position)[:, None],
                **options,
            )
            return jax.tree.map(lambda x: x[:, 0], found)

        every = spmd.vmap_shards(one)
        return every(self.prompt, self.tokens, self.packing, context)

    def to_rows(
        self, microbatch: Int[Array, ""], streams: PyTree[Array, " T"]
    ) -> tuple[PyTree[Array, " T"], Bool[Array, "prompt group"]]:
        """Unpacks one microbatch's streams into rows, with a mask of the rows in it."""
        first = microbatch * self.streams
        unpack = spmd.vmap_shards(lambda x, packing: to_rows(x, packing, first))
        leaves, tree = jax.tree.flatten(streams)
        rows, included = zip(*(unpack(x, self.packing) for x in leaves), strict=True)
        rows = spmd.merge_batch(jax.tree.unflatten(tree, rows))
        return rows, spmd.merge_batch(included[0])

    def to_streams(
        self, microbatch: Int[Array, ""], rows: PyTree[Array, " T"]
    ) -> PyTree[Array, " T"]:
        """Packs rows into the streams of one microbatch."""

        def one(rows, source):
            source = self.take_streams(microbatch, source)
            return jax.tree.map(lambda x: to_streams(x, source), rows)

        rows = spmd.split_batch(rows)
        return spmd.vmap_shards(one)(rows, self.packing.source)


def pack_rows(
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    mask: Bool[Array, "prompt group time"],
    streams: int,
) -> PackedRows:
    """Packs rows, each up to its last token in the mask.

    **Arguments:**

    - `streams`: streams per microbatch over all shards; divides the number of rows.
    """
    time = tokens.shape[-1]
    lengths = jnp.max(jnp.where(mask, jnp.arange(1, time + 1), 0), axis=-1)
    prompt, tokens, lengths = spmd.split_batch((prompt, tokens, lengths))
    packing = spmd.vmap_shards(lambda lengths: pack(lengths, time))(lengths)
    return PackedRows(prompt, tokens, packing, streams // spmd.shards())


def prefill_prompts(policy: AbstractPolicy, rows: PackedRows) -> PyTree:
    """KV caches of the prompts."""
    one = jax.vmap(ft.partial(prefill, policy))
    return spmd.vmap_shards(one)(rows.prompt)


def masked_log_probs(
    policy: AbstractPolicy,
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    mask: Bool[Array, "prompt group time"],
    microbatches: int,
    **options: FloatLike | int | None,
) -> LogProbs:
    """Log-probs and entropies of masked tokens, without gradient; 0 elsewhere."""
    chunks, streams = microbatch_sizes(microbatches, tokens.shape[1])
    sharding.check_prompts("prompts / microbatches", tokens.shape[0] // chunks)

    def some(replicated, chunk) -> LogProbs:
        policy, options = replicated
        prompt, (tokens, mask) = chunk
        rows = pack_rows(prompt, tokens, mask, streams * tokens.shape[0])
        context = prefill_prompts(policy, rows)

        def add(microbatch, total):
            found = rows.log_probs(policy, context, microbatch, **options)
            found, included = rows.to_rows(microbatch, found)
            keep = mask & included[:, :, None]
            return jax.tree.map(ft.partial(jnp.where, keep), found, total)

        zeros = jnp.zeros(tokens.shape, jnp.float32)
        return jax.lax.fori_loop(0, rows.microbatches, add, (zeros, zeros))

    def every(replicated, prompt, rows) -> LogProbs:
        found = jax.lax.map(ft.partial(some, replicated), split(chunks, prompt, rows))
        return jax.tree.map(join, found)

    balanced, restore = balance_tokens(mask, chunks, (prompt, (tokens, mask)))
    replicated = policy, options
    found = restore(spmd.shard_map_data_parallel(every, replicated, *balanced))
    return jax.lax.stop_gradient(found)


Loss = Callable[[LogProbs, Bool[Array, "prompt group"]], tuple[Array, PyTree]]
"""(log-probs, rows of this microbatch) -> loss and metrics."""


def packed_gradient(
    policy: AbstractPolicy,
    rows: PackedRows,
    loss: Loss,
    **options: FloatLike | int | None,
) -> tuple[PyTree, PyTree]:
    """Gradient with respect to the trainable arrays, and metrics, of packed rows.

    Both are accumulated over microbatches. The cotangent of the prompts'
    caches is accumulated too, and pulled back through the prefill once at the end.
    """
    params, static = eqx.partition(policy, policy.trainable())
    combine = lambda params: eqx.combine(params, static)
    context, pull_context = jax.vjp(
        lambda params: prefill_prompts(combine(params), rows), params
    )

    def one(microbatch):
        found, pull = jax.vjp(
            lambda params, context: rows.log_probs(
                combine(params), context, microbatch, **options
            ),
            params,
            context,
        )
        by_row, included = rows.to_rows(microbatch, found)
        cotangent, metrics = jax.grad(loss, has_aux=True)(by_row, included)
        gradient, of_context = pull(rows.to_streams(microbatch, cotangent))
        return (sharding.constrain(gradient), of_context), metrics

    shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32))
    # Accumulate in float32 at least, even if the caches are in half precision.
    wide = lambda x: jnp.zeros(x.shape, accumulation_dtype(x.dtype))
    gradient, of_context = jax.tree.map(wide, shapes[0])
    gradients = sharding.constrain(gradient), of_context

    def accumulate(total, fresh):
        return jax.tree.map(lambda x, y: x + y.astype(x.dtype), total, fresh)

    def add(microbatch, carry):
        gradients, metrics = carry
        fresh, more = one(microbatch)
        return accumulate(gradients, fresh), metrics + more

    (gradient, of_context), metrics = jax.lax.fori_loop(
        0, rows.microbatches, add, (gradients, shapes[1].zeros())
    )
    narrow = lambda x, like: x.astype(like.dtype)
    (through_context,) = pull_context(jax.tree.map(narrow, of_context, context))
    return accumulate(gradient, through_context), metrics
