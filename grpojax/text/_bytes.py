"""Texts inside a compiled program, and how tokens become one."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from ._token_bytes import TokenBytes


class Bytes(eqx.Module):
    """A text inside a compiled program: `data[:length]`, right-padded with 0.

    The functions on it take one text (`vmap` them); `bytes(text)` copies one to the
    host.

    **Fields:**

    - `data`: the padded bytes.
    - `length`: of the text, bytes; int32.
    """

    data: UInt8[Array, "*batch size"]
    length: Int[Array, "*batch"]

    def __bytes__(self) -> bytes:
        return np.asarray(self.data)[: int(self.length)].tobytes()


def pack(text: bytes, *, size: int) -> Bytes:
    """A text from the host, padded to `size` bytes.

    **Arguments:**

    - `text`: the text.
    - `size`: the padded length, bytes.

    **Returns:** the padded text.

    **Raises:** `ValueError` if the text is longer than `size`.

    !!! example

        ```python
        parse_integer(pack(b"so he has #### 1,234", size=64)).value  # 1234
        ```
    """
    if len(text) > size:
        raise ValueError(
            f"pack(size=...) must be at least the text's {len(text)} bytes. Received "
            f"size={size}. Raise it."
        )
    data = np.frombuffer(text.ljust(size, b"\0"), np.uint8)
    return Bytes(jnp.asarray(data), jnp.asarray(len(text), jnp.int32))


def to_bytes(
    token_bytes: TokenBytes,
    tokens: Int[Array, " time"],
    keep: Bool[Array, " time"],
    *,
    size: int,
) -> Bytes:
    """The text of the kept tokens of one row, truncated to its last `size` bytes.

    The beginning is truncated, since answers are at the end. Tokens that are not kept
    contribute nothing, nor do ids outside the table: a model's vocabulary is often
    padded beyond its tokenizer's.

    **Arguments:**

    - `token_bytes`: the bytes of every token.
    - `tokens`: token ids; int32.
    - `keep`: a mask, usually `Trajectory.sampled`. It cannot be derived from the ids: a
        padding token may be sampled as well.
    - `size`: bytes of the result; static.

    **Returns:** the text.

    **Raises:** `ValueError` for a `size` below 1.
    """
    if size < 1:
        raise ValueError(
            f"to_bytes(size=...) must be at least 1. Received size={size}. Take the "
            "length of the longest text that a reward reads."
        )
    vocab, time = token_bytes.length.shape[0], tokens.shape[0]
    keep = keep & (tokens >= 0) & (tokens < vocab)
    length = jnp.where(keep, token_bytes.length[tokens], 0)
    end = jnp.cumsum(length, dtype=jnp.int32)
    total = jnp.sum(length, dtype=jnp.int32)
    truncated = jnp.maximum(total - size, 0)
    source = jnp.arange(size, dtype=jnp.int32) + truncated
    # The token of a byte: its index is the number of tokens that end before the byte.
    # One scatter of `time` counts gives it for all bytes, four times as fast on a CPU
    # as a binary search for each.
    ended = jnp.zeros(size, jnp.int32)
    ended = ended.at[jnp.maximum(end - truncated, 0)].add(1, mode="drop")
    index = jnp.minimum(jnp.cumsum(ended, dtype=jnp.int32), time - 1)
    offset = source - (end - length)[index]
    data = token_bytes.table[tokens[index], offset]
    return Bytes(jnp.where(source < total, data, 0), jnp.minimum(total, size))
