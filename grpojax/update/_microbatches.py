"""Log-probs and gradients in microbatches of packed streams.

Memory follows a microbatch, and work follows the tokens: a prompt is run once for all
of its microbatches, and microbatches without tokens are not computed.
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
    """Rows packed into streams, of which a microbatch holds `streams`.

    Every shard packs the rows of its own prompts: its axis comes first.
    """

    prompt: Prompt
    tokens: Int[Array, "shard prompt group time"]
    packing: Packing
    streams: int = eqx.field(static=True)

    @property
    def microbatches(self) -> Int[Array, ""]:
        """How many microbatches hold tokens; at least 1, so that metrics exist."""
        used = jnp.max(self.packing.used)
        return jnp.maximum(-(-used // self.streams), 1)

    def slice(self, microbatch: Int[Array, ""], x: Array) -> Array:
        """The streams of one microbatch, of one shard."""
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
            owner = self.slice(microbatch, packing.owner)
            own = lambda x: x[owner]
            found = log_probs(
                policy,
                jax.tree.map(own, prompt),
                to_streams(tokens, self.slice(microbatch, packing.source))[:, None],
                context=jax.tree.map(own, context),
                position=self.slice(microbatch, packing.position)[:, None],
                **options,
            )
            return jax.tree.map(lambda x: x[:, 0], found)

        every = spmd.vmap_shards(one)
        return every(self.prompt, self.tokens, self.packing, context)

    def to_rows(
        self, microbatch: Int[Array, ""], streams: PyTree[Array, " T"]
    ) -> tuple[PyTree[Array, " T"], Bool[Array, "prompt group"]]:
        """Streams of one microbatch as rows, and which rows are in it."""
        first = microbatch * self.streams
        unpack = spmd.vmap_shards(lambda x, packing: to_rows(x, packing, first))
        leaves, tree = jax.tree.flatten(streams)
        rows, included = zip(*(unpack(x, self.packing) for x in leaves), strict=True)
        rows = spmd.merge_batch(jax.tree.unflatten(tree, rows))
        return rows, spmd.merge_batch(included[0])

    def to_streams(
        self, microbatch: Int[Array, ""], rows: PyTree[Array, " T"]
    ) -> PyTree[Array, " T"]:
        """Rows as the streams of one microbatch."""

        def one(rows, source):
            source = self.slice(microbatch, source)
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

    - `streams`: of a microbatch, over all shards; divides the rows.
    """
    time = tokens.shape[-1]
    lengths = jnp.max(jnp.where(mask, jnp.arange(1, time + 1), 0), axis=-1)
    prompt, tokens, lengths = spmd.split_batch((prompt, tokens, lengths))
    packing = spmd.vmap_shards(lambda lengths: pack(lengths, time))(lengths)
    return PackedRows(prompt, tokens, packing, streams // spmd.shards())


def prefill_prompts(policy: AbstractPolicy, rows: PackedRows) -> PyTree:
    """The prompts' caches."""
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
    """Log-probs and entropies under a mask, without a gradient; 0 elsewhere."""
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
    """The gradient for the policy's trainable arrays, and metrics, of packed rows.

    Both are accumulated over microbatches. The gradient of the prompts' caches, which
    every microbatch adds to, is pulled back through the prompts once at the end.
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
    # The caches may be in half precision, the sum of their gradients is not.
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
