"""Log-probs of packed rows, without gradient."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

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
    """

    rows: PackedRows
    temperature: FloatLike
    vocab_size: int | None = eqx.field(static=True)
    chunk: int | None = eqx.field(static=True)

    def __call__(
        self,
        policy: AbstractPolicy,
        chunk: Chunk,
        cache: PyTree,
        window: PyTree | None = None,
    ) -> tuple[Columns, PyTree]:
        """Log-probs and entropies, and the chunk's own cache."""
        past = None if window is None else Window(window, self.rows.window_columns)
        hidden, own = extend_shards(policy, chunk, self.rows.context(cache), past)
        score = ft.partial(
            token_log_probs,
            temperature=self.temperature,
            vocab_size=self.vocab_size,
            chunk=self.chunk,
        )
        return spmd.vmap_policy_shards(score, policy, hidden, chunk.targets), own

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

        start = empty_caches(rows, policy, columns), (zeros, zeros)
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
            keep = mask & included[:, :, None]
            return jax.tree.map(ft.partial(jnp.where, keep), found, total)

        def split(microbatch, total):
            _, *past = score.earlier(policy, cache, microbatch)
            return unsplit(microbatch, total, *past)

        zeros = jnp.zeros(tokens.shape, jnp.float32)
        return rows.fold(split, unsplit, (zeros, zeros))

    balanced, restore = balance_tokens(mask, (prompt, (tokens, mask)))
    replicated = policy, temperature
    found = restore(spmd.shard_map_data_parallel(every, replicated, *balanced))
    return jax.lax.stop_gradient(found)
