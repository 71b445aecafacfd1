"""The laws of `AbstractPolicy`, checked on random tokens."""

import functools as ft
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from ..policy import (
    AbstractPolicy,
    empty_cache,
    log_prob,
    logits,
    Past,
)
from ..types import Prompt
from ._require import require


def check_policy(
    policy: AbstractPolicy,
    *,
    key: Key[Array, ""],
    length: int = 12,
    tolerance: float = 1e-5,
):
    """Checks that a policy keeps the laws of `AbstractPolicy`.

    Prefill, decode and teacher forcing are one function; attention is causal, also
    within a chunk; a shared context equals the same tokens in the chunk's own cache;
    sequences packed into one chunk do not see each other.

    **Arguments:**

    - `policy`: computing in float32; lower precision needs a wider tolerance.
    - `key`: draws the tokens.
    - `length`: of the sequence, tokens.
    - `tolerance`: of logits, relative to their largest magnitude.

    **Raises:** `AssertionError` naming the law that is broken.

    !!! example

        ```python
        grpojax.testing.check_policy(policy, key=jax.random.key(0))
        ```
    """
    token_key, other_key = jr.split(key)
    tokens = jr.randint(token_key, (length,), 0, policy.vocab_size)
    other = jr.randint(other_key, (length,), 0, policy.vocab_size)
    expected = eqx.filter_jit(logits)(policy, tokens)
    require(
        expected.shape == (length, policy.vocab_size) and expected.dtype == jnp.float32,
        f"Logits are float32 of shape {(length, policy.vocab_size)}. Received "
        f"{expected.dtype} of shape {expected.shape}.",
    )
    largest = tolerance * max(1.0, float(jnp.max(jnp.abs(expected))))

    def close(seen: Float[Array, "..."], wanted: Float[Array, "..."], law: str):
        gap = float(jnp.max(jnp.abs(seen - wanted)))
        require(gap <= largest, f"{law} The largest difference is {gap:.3g}.")

    _check_chunks(policy, tokens, expected, close)
    _check_causality(policy, tokens, other, expected, close)
    _check_padding(policy, tokens, other, expected, close)
    _check_packing(policy, tokens, other, close)


_Close = Callable[[Float[Array, "..."], Float[Array, "..."], str], None]


def _check_chunks(policy: AbstractPolicy, tokens, expected, close: _Close):
    length = tokens.shape[0]
    for chunks in ([1] * length, [length // 2, length - length // 2]):
        close(
            _in_chunks(policy.for_decoding(), tokens, chunks),
            expected,
            "Any chunking of a sequence gives the logits of the full sequence; "
            f"{chunks} did not.",
        )


def _check_causality(policy: AbstractPolicy, tokens, other, expected, close: _Close):
    half = tokens.shape[0] // 2
    changed = jnp.where(jnp.arange(tokens.shape[0]) < half, tokens, other)
    close(
        eqx.filter_jit(logits)(policy, changed)[:half],
        expected[:half],
        "A token does not see later ones.",
    )


def _padded(tokens, other) -> Prompt:
    """The first half of the tokens as a prompt, with random tokens as its padding."""
    half = tokens.shape[0] // 2
    padded = jnp.concatenate([tokens[:half], other])
    return Prompt(padded, jnp.asarray(half, jnp.int32))


def _check_padding(policy: AbstractPolicy, tokens, other, expected, close: _Close):
    half = tokens.shape[0] // 2
    close(
        eqx.filter_jit(log_prob)(policy, _padded(tokens, other), tokens[half:]),
        jnp.take_along_axis(
            jax.nn.log_softmax(expected[half - 1 : -1]), tokens[half:, None], axis=1
        )[:, 0],
        "Padding does not reach a completion, and a prompt's cache may be shared.",
    )


def _check_packing(policy: AbstractPolicy, tokens, other, close: _Close):
    length = tokens.shape[0]
    packed = jnp.concatenate([tokens, other])
    index = jnp.arange(2 * length)
    same = index[:, None] // length == index[None] // length
    visible = same & (index[:, None] >= index[None])
    extend = eqx.filter_jit(lambda policy, *args: policy.extend(*args, visible=visible))
    hidden, _ = extend(policy, packed, index % length)
    separate = eqx.filter_jit(jax.vmap(ft.partial(logits, policy)))
    close(
        policy.logits(hidden),
        separate(jnp.stack([tokens, other])).reshape(2 * length, -1),
        "Sequences that are packed into one chunk do not see each other.",
    )


def _in_chunks(policy, tokens, chunks) -> Float[Array, "time vocab"]:
    """Logits by way of one cache whose columns are used back to front."""
    length = tokens.shape[0]
    cache = empty_cache(policy, 2 * length)
    extend = eqx.filter_jit(lambda policy, *args: policy.extend(*args))
    column, start, hidden = 2 * length, 0, []
    for size in chunks:
        # The order of columns does not matter: chunks are written from the far end.
        seen = jnp.arange(2 * length) >= column
        chunk = slice(start, start + size)
        past = Past(cache, seen[None])
        out, written = extend(policy, tokens[chunk], jnp.arange(length)[chunk], past)
        column -= size
        cache = policy.write(cache, written, column)
        hidden.append(out)
        start += size
    return policy.logits(jnp.concatenate(hidden))
