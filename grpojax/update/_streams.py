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

from ..policy import AbstractPolicy, prefill
from ..types import Prompt
from ._pack import pack, Packing, to_rows, to_streams
from ._score import join, score, Scored, split, streams_of
from ._surrogate import Number


class Streams(eqx.Module):
    """Rows, packed in streams of which so many are scored at a time."""

    prompt: Prompt
    tokens: Int[Array, "prompt group time"]
    packing: Packing
    at_a_time: int = eqx.field(static=True)

    @property
    def parts(self) -> Int[Array, ""]:
        """How many parts hold anything; one at least, for something to be measured."""
        return jnp.maximum(-(-self.packing.used // self.at_a_time), 1)

    def cut(self, part: Int[Array, ""], x: Array) -> Array:
        """The streams of one part."""
        start = part * self.at_a_time
        return jax.lax.dynamic_slice_in_dim(x, start, self.at_a_time, axis=0)

    def score(
        self, policy: AbstractPolicy, context: PyTree, part: Int[Array, ""], **options
    ) -> PyTree[Float[Array, "at_a_time time"]]:
        """The scores of one part's streams, `[at_a_time time]`."""
        source = self.cut(part, self.packing.source)
        position = self.cut(part, self.packing.position)
        owner = self.cut(part, self.packing.owner)
        own = lambda x: x[owner]
        scores = score(
            policy,
            jax.tree.map(own, self.prompt),
            to_streams(self.tokens, source)[:, None],
            context=jax.tree.map(own, context),
            position=position[:, None],
            **options,
        )
        return jax.tree.map(lambda x: x[:, 0], scores)

    def to_rows(
        self, part: Int[Array, ""], streams: PyTree[Array, " T"]
    ) -> tuple[PyTree[Array, " T"], Bool[Array, "prompt group"]]:
        """Streams of one part as rows, and which rows stand in them."""
        back = lambda x: to_rows(x, self.packing, part * self.at_a_time)
        here = back(jax.tree.leaves(streams)[0])[1]
        return jax.tree.map(lambda x: back(x)[0], streams), here

    def to_streams(
        self, part: Int[Array, ""], rows: PyTree[Array, " T"]
    ) -> PyTree[Array, " T"]:
        """Rows as the streams of one part."""
        source = self.cut(part, self.packing.source)
        return jax.tree.map(lambda x: to_streams(x, source), rows)


def in_streams(
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    mask: Bool[Array, "prompt group time"],
    at_a_time: int,
) -> Streams:
    """Packs rows up to the last token that counts; `at_a_time` divides the rows."""
    time = tokens.shape[-1]
    lengths = jnp.max(mask * jnp.arange(1, time + 1), axis=-1)
    return Streams(prompt, tokens, pack(lengths, time), at_a_time)


def prefill_all(policy: AbstractPolicy, prompt: Prompt) -> PyTree:
    return jax.vmap(ft.partial(prefill, policy))(prompt)


def score_in_parts(
    policy: AbstractPolicy,
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    mask: Bool[Array, "prompt group time"],
    parts: int,
    **options: Number | int | None,
) -> Scored:
    """Scores under a mask, without a gradient; 0 elsewhere."""
    prompts, group, time = tokens.shape
    by_prompt, at_a_time = streams_of(parts, group)

    def some(part) -> Scored:
        prompt, (tokens, mask) = part
        streams = in_streams(prompt, tokens, mask, at_a_time * tokens.shape[0])
        context = prefill_all(policy, prompt)

        def add(part, scores):
            found = streams.score(policy, context, part, **options)
            found, here = streams.to_rows(part, found)
            keep = mask & here[:, :, None]
            return jax.tree.map(ft.partial(jnp.where, keep), found, scores)

        zeros = jnp.zeros(tokens.shape, jnp.float32)
        return jax.lax.fori_loop(0, streams.parts, add, (zeros, zeros))

    scores = jax.lax.map(some, split(by_prompt, prompt, (tokens, mask)))
    whole = lambda x: jax.lax.stop_gradient(join(x))
    return jax.tree.map(whole, scores)


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
        lambda params: prefill_all(combine(params), streams.prompt), params
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
        return (gradient, of_context), measured

    shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32))
    # The caches may be in half precision, their gradient's sum is not.
    wide = lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))
    gradients = jax.tree.map(wide, shapes[0])

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
