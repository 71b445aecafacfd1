"""Scoring in parts: memory follows a part, and work follows the tokens.

A part is some of the streams that the rows of some of the prompts are packed in.
Prompts are run once for all of their parts, and streams that hold nothing not at all.
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
from ..types import Prompt
from ._pack import pack, Packing, to_rows, to_streams
from ._score import join, score, Scored, split, streams_of
from ._surrogate import Number


class Streams(eqx.Module):
    """Rows, packed in streams of which so many are scored at a time.

    On a mesh every shard packs the rows of its own prompts: its axis is in front.
    """

    prompt: Prompt
    tokens: Int[Array, "shard prompt group time"]
    packing: Packing
    at_a_time: int = eqx.field(static=True)

    @property
    def parts(self) -> Int[Array, ""]:
        """How many parts hold anything; one at least, for something to be measured."""
        used = jnp.max(self.packing.used)
        return jnp.maximum(-(-used // self.at_a_time), 1)

    def cut(self, part: Int[Array, ""], x: Array) -> Array:
        """The streams of one part, of one shard."""
        start = part * self.at_a_time
        return jax.lax.dynamic_slice_in_dim(x, start, self.at_a_time, axis=0)

    def score(
        self, policy: AbstractPolicy, context: PyTree, part: Int[Array, ""], **options
    ) -> PyTree[Float[Array, "shard at_a_time time"]]:
        """The scores of one part's streams, `[shard at_a_time time]`."""

        def one(prompt, tokens, packing, context):
            owner = self.cut(part, packing.owner)
            own = lambda x: x[owner]
            scores = score(
                policy,
                jax.tree.map(own, prompt),
                to_streams(tokens, self.cut(part, packing.source))[:, None],
                context=jax.tree.map(own, context),
                position=self.cut(part, packing.position)[:, None],
                **options,
            )
            return jax.tree.map(lambda x: x[:, 0], scores)

        every = spmd.vmap_shards(one)
        return every(self.prompt, self.tokens, self.packing, context)

    def to_rows(
        self, part: Int[Array, ""], streams: PyTree[Array, " T"]
    ) -> tuple[PyTree[Array, " T"], Bool[Array, "prompt group"]]:
        """Streams of one part as rows, and which rows stand in them."""
        first = part * self.at_a_time
        back = spmd.vmap_shards(lambda x, packing: to_rows(x, packing, first))
        leaves, tree = jax.tree.flatten(streams)
        rows, here = zip(*(back(x, self.packing) for x in leaves), strict=True)
        return spmd.merge_batch(jax.tree.unflatten(tree, rows)), spmd.merge_batch(
            here[0]
        )

    def to_streams(
        self, part: Int[Array, ""], rows: PyTree[Array, " T"]
    ) -> PyTree[Array, " T"]:
        """Rows as the streams of one part."""

        def one(rows, source):
            source = self.cut(part, source)
            return jax.tree.map(lambda x: to_streams(x, source), rows)

        return spmd.vmap_shards(one)(spmd.split_batch(rows), self.packing.source)


def in_streams(
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    mask: Bool[Array, "prompt group time"],
    at_a_time: int,
) -> Streams:
    """Packs rows up to the last token that counts; `at_a_time` divides the rows."""
    time = tokens.shape[-1]
    lengths = jnp.max(mask * jnp.arange(1, time + 1), axis=-1)
    prompt, tokens, lengths = spmd.split_batch((prompt, tokens, lengths))
    packing = spmd.vmap_shards(lambda lengths: pack(lengths, time))(lengths)
    return Streams(prompt, tokens, packing, at_a_time // spmd.shards())


def prefill_all(policy: AbstractPolicy, streams: Streams) -> PyTree:
    """The prompts' caches."""
    one = jax.vmap(ft.partial(prefill, policy))
    return spmd.vmap_shards(one)(streams.prompt)


def evenly(
    mask: Bool[Array, "prompt group time"], by_prompt: int, tree: PyTree[Array, " T"]
) -> tuple[PyTree[Array, " T"], Callable]:
    """Prompts in an order in which every shard has about as many tokens as any other.

    A gradient is a sum over prompts, wherever they are, and takes as long as the shard
    with the most. Each part of each shard takes its share of the prompts: the longest
    goes first, each to where the fewest tokens are and there is room.

    **Arguments:**

    - `mask`: the tokens that count.
    - `by_prompt`: parts that the prompts of a shard are dealt out to, see `split`.
    - `tree`: what has an axis of prompts in front.

    **Returns:** the tree in that order, and what puts another one back.
    """
    shards, prompts = spmd.shards(), mask.shape[0]
    if shards in (1, prompts):
        return tree, lambda tree: tree
    room = prompts // (shards * by_prompt)

    def place(bins, tokens):
        held, count = bins
        chosen = jnp.argmin(jnp.where(count < room, held, jnp.iinfo(held.dtype).max))
        bins = held.at[chosen].add(tokens), count.at[chosen].add(1)
        return bins, (chosen, count[chosen])

    tokens = jnp.sum(mask, axis=(1, 2), dtype=jnp.int32)
    longest = jnp.argsort(tokens, descending=True)
    empty = jnp.zeros(shards * by_prompt, jnp.int32)
    _, (chosen, number) = jax.lax.scan(place, (empty, empty), tokens[longest])
    shard, part = jnp.divmod(chosen, by_prompt)
    target = (shard * room + number) * by_prompt + part
    order = jnp.zeros(prompts, jnp.int32).at[target].set(longest.astype(jnp.int32))
    back = jnp.argsort(order)
    return spmd.permute_batch(tree, order), lambda tree: spmd.permute_batch(tree, back)


def score_in_parts(
    policy: AbstractPolicy,
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    mask: Bool[Array, "prompt group time"],
    parts: int,
    **options: Number | int | None,
) -> Scored:
    """Scores under a mask, without a gradient; 0 elsewhere."""
    by_prompt, at_a_time = streams_of(parts, tokens.shape[1])
    spmd.check_prompts("prompts / parts", tokens.shape[0] // by_prompt)

    def some(whole, part) -> Scored:
        policy, options = whole
        prompt, (tokens, mask) = part
        streams = in_streams(prompt, tokens, mask, at_a_time * tokens.shape[0])
        context = prefill_all(policy, streams)

        def add(part, scores):
            found = streams.score(policy, context, part, **options)
            found, here = streams.to_rows(part, found)
            keep = mask & here[:, :, None]
            return jax.tree.map(ft.partial(jnp.where, keep), found, scores)

        zeros = jnp.zeros(tokens.shape, jnp.float32)
        return jax.lax.fori_loop(0, streams.parts, add, (zeros, zeros))

    def every(whole, prompt, rows) -> Scored:
        scores = jax.lax.map(ft.partial(some, whole), split(by_prompt, prompt, rows))
        return jax.tree.map(join, scores)

    whole = policy, options
    dealt, back = evenly(mask, by_prompt, (prompt, (tokens, mask)))
    scores = back(spmd.shard_map_data_parallel(every, whole, *dealt))
    return jax.lax.stop_gradient(scores)


Loss = Callable[[Scored, Bool[Array, "prompt group"]], tuple[Float[Array, ""], PyTree]]
"""The loss of the rows that are here, and what was measured of it."""


def gradient_in_parts(
    policy: AbstractPolicy, streams: Streams, loss: Loss, **options: Number | int | None
) -> tuple[PyTree, PyTree]:
    """The gradient for what a policy trains, and what was measured.

    Both are added up over the parts. The prompts' own gradient is that of their caches,
    which every part adds to; the prompts are run once forward and once backward.
    """
    params, static = eqx.partition(policy, policy.trainable())
    combine = lambda params: eqx.combine(params, static)
    context, pull_context = jax.vjp(
        lambda params: prefill_all(combine(params), streams), params
    )

    def one(part):
        scores, pull = jax.vjp(
            lambda params, context: streams.score(
                combine(params), context, part, **options
            ),
            params,
            context,
        )
        rows, here = streams.to_rows(part, scores)
        cotangent, measured = jax.grad(loss, has_aux=True)(rows, here)
        gradient, of_context = pull(streams.to_streams(part, cotangent))
        return (sharding.constrain(gradient), of_context), measured

    shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32))
    # The caches may be in half precision, their gradient's sum is not.
    wide = lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))
    gradient, of_context = jax.tree.map(wide, shapes[0])
    gradients = sharding.constrain(gradient), of_context

    def add(part, carry):
        gradients, measured = carry
        fresh, more = one(part)
        return jax.tree.map(jnp.add, gradients, fresh), measured + more

    (gradient, of_context), measured = jax.lax.fori_loop(
        0, streams.parts, add, (gradients, shapes[1].empty())
    )
    narrow = lambda x, like: x.astype(like.dtype)
    (through_context,) = pull_context(jax.tree.map(narrow, of_context, context))
    return jax.tree.map(jnp.add, gradient, through_context), measured
