"""Log-probs of packed rows, without gradient."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...policy import AbstractPolicy
from ...sharding import spmd
from ...types import FloatLike, Prompt
from .._log_prob import LogProbs, token_log_probs
from ._chunks import Chunk, Window
from ._packing import balance_tokens
from ._rows import (
    Columns,
    Earlier,
    empty_caches,
    extend_shards,
    pack_rows,
    PackedRows,
    prefill_prompts,
    write,
)


class Scorer(eqx.Module):
    """Log-probs of chunks.

    **Fields:**

    - `rows`: the packed rows.
    - `temperature`, `vocab_size`, `chunk`: as in `log_probs`.
    - `shares`: f of `LoadBalance`, of which the balance of each token is then scored.
    """

    rows: PackedRows
    temperature: FloatLike
    vocab_size: int | None = eqx.field(static=True)
    chunk: int | None = eqx.field(static=True)
    shares: Float[Array, " expert"] | None = None

    def __call__(
        self,
        policy: AbstractPolicy,
        chunk: Chunk,
        cache: PyTree,
        window: PyTree | None = None,
    ) -> tuple[Columns, PyTree]:
        """Log-probs and entropies, and the chunk's own cache."""
        past = None if window is None else Window(window, self.rows.window_columns)
        hidden, own, *use = extend_shards(
            policy,
            chunk,
            self.rows.context(cache),
            past,
            routes=self.shares is not None,
        )
        score = ft.partial(
            token_log_probs,
            temperature=self.temperature,
            vocab_size=self.vocab_size,
            chunk=self.chunk,
        )
        found = spmd.vmap_policy_shards(score, policy, hidden, chunk.targets)
        if self.shares is not None:
            shares = self.shares.shape[0] * self.shares
            exact = jax.lax.Precision.HIGHEST
            found = *found, jnp.matmul(use[0].probability, shares, precision=exact)
        return found, own

    @property
    def values(self) -> int:
        """How many numbers are scored for each token."""
        return 2 if self.shares is None else 3

    def earlier(
        self, policy: AbstractPolicy, cache: PyTree, microbatch: Int[Array, ""]
    ) -> tuple[Int[Array, ""], PyTree, Earlier]:
        """Runs the earlier chunks of the row that ends in a microbatch.

        **Returns:** how many there are, their keys and values, and their log-probs and
        entropies.
        """
        rows = self.rows
        columns = rows.window_columns
        count = rows.earlier_chunks(microbatch)
        zeros = jnp.zeros((rows.tokens.shape[0], columns), jnp.float32)

        def add(number, carry):
            window, total = carry
            chunk = rows.chunk(rows.split_source(microbatch, number))
            found, own = self(policy, chunk, cache, window)
            at = number * rows.size
            put = lambda total, x: jax.lax.dynamic_update_slice_in_dim(total, x, at, 1)
            return write(policy, window, own, at), jax.tree.map(put, total, found)

        start = empty_caches(rows, policy, columns), (zeros,) * self.values
        window, found = jax.lax.fori_loop(0, count, add, start)
        return count, window, found


def masked_log_probs(
    policy: AbstractPolicy,
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    mask: Bool[Array, "prompt group time"],
    size: int,
    *,
    temperature: FloatLike = 1.0,
    vocab_size: int | None = None,
    chunk: int | None = None,
) -> LogProbs:
    """Log-probs and entropies of masked tokens, without gradient; 0 elsewhere.

    **Arguments:**

    - `size`: tokens of a microbatch in each shard.
    """

    def every(replicated, prompt, rows) -> LogProbs:
        policy, temperature = replicated
        tokens, mask = rows
        rows = pack_rows(prompt, tokens, mask, size)
        cache = prefill_prompts(policy, rows)
        score = Scorer(rows, temperature, vocab_size, chunk)

        def unsplit(microbatch, total, window=None, earlier=None):
            chunk = rows.chunk(rows.source(microbatch))
            found, _ = score(policy, chunk, cache, window)
            found, included = rows.to_rows(microbatch, found, earlier)
            width = found[0].shape[-1]
            keep = mask[..., :width] & included[:, :, None]
            put = lambda x, y: y.at[..., :width].set(jnp.where(keep, x, y[..., :width]))
            return jax.tree.map(put, found, total)

        def split(microbatch, total):
            _, *past = score.earlier(policy, cache, microbatch)
            return unsplit(microbatch, total, *past)

        zeros = jnp.zeros(tokens.shape, jnp.float32)
        return rows.fold(split, unsplit, (zeros, zeros))

    balanced, restore = balance_tokens(mask, (prompt, (tokens, mask)))
    replicated = policy, temperature
    found = restore(spmd.shard_map_data_parallel(every, replicated, *balanced))
    return jax.lax.stop_gradient(found)


def expert_shares(
    policy: AbstractPolicy,
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    mask: Bool[Array, "prompt group time"],
    size: int,
) -> Float[Array, " expert"]:
    """The share of the masked tokens that have each expert, averaged over layers.

    **Arguments:**

    - `size`: tokens of a microbatch in each shard.
    """

    def every(policy, prompt, rows):
        tokens, mask = rows
        packed = pack_rows(prompt, tokens, mask, size)
        cache = prefill_prompts(policy, packed)
        flat = spmd.split_batch(mask)

        def count(source, window=None):
            chunk = packed.chunk(source)
            past = None if window is None else Window(window, packed.window_columns)
            context = packed.context(cache)
            _, own, use = extend_shards(policy, chunk, context, past, routes=True)

            def one(source, mask, use):
                counts = (source >= 0) & mask.reshape(-1)[source]
                return jnp.sum(jnp.where(counts[:, None], use.chosen, 0), axis=0)

            return jnp.sum(spmd.vmap_shards(one)(source, flat, use), axis=0), own

        def split(microbatch, total):
            window = empty_caches(packed, policy, packed.window_columns)

            def add(number, carry):
                window, total = carry
                more, own = count(packed.split_source(microbatch, number), window)
                at = number * packed.size
                return write(policy, window, own, at), total + more

            last = packed.earlier_chunks(microbatch)
            window, total = jax.lax.fori_loop(0, last, add, (window, total))
            return total + count(packed.source(microbatch), window)[0]

        def unsplit(microbatch, total):
            return total + count(packed.source(microbatch))[0]

        first = packed.source(jnp.zeros((), jnp.int32))
        shares, _ = jax.eval_shape(count, first)
        zeros = jnp.zeros(shares.shape, jnp.float32)
        return packed.fold(split, unsplit, zeros)[None]

    (prompt, rows), _ = balance_tokens(mask, (prompt, (tokens, mask)))
    found = spmd.shard_map_data_parallel(every, policy, prompt, rows)
    count = jnp.maximum(jnp.sum(mask, dtype=found.dtype), 1)
    shares = jnp.sum(found, axis=0) / count
    return jax.lax.stop_gradient(shares)
