import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from ._token_bytes import TokenBytes


class Bytes(eqx.Module):
    """A text inside a compiled program: `data[:length]`, followed by zeros.

    The functions on it take one text (`vmap` them); `bytes(text)` brings one to the
    host.

    **Fields:**

    - `data`: room for `size` bytes.
    - `length`: how many of them are the text; int32.
    """

    data: UInt8[Array, "*batch size"]
    length: Int[Array, "*batch"]

    def __bytes__(self) -> bytes:
        return np.asarray(self.data)[: int(self.length)].tobytes()


def pack(text: bytes, *, size: int) -> Bytes:
    """Puts a text from the host into room for `size` bytes.

    **Raises**

    `ValueError` when the text is longer than that.

    !!! example

        ```python
        number_after(pack(b"so he has #### 1,234", size=64)).value  # 1234
        ```
    """
    if len(text) > size:
        raise ValueError(
            f"pack(size=...) must hold the text: it has {len(text)} bytes. Received "
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
    """The text of the kept tokens of one stream; its last `size` bytes if it has more.

    What is cut off is the beginning, since answers stand at the end. A token that is
    not kept contributes nothing wherever it stands, and neither does an id outside the
    table: a model's vocabulary is often padded beyond its tokenizer's.

    **Arguments**

    - `tokens`: int32.
    - `keep`: usually what the policy said itself, `Trajectory.sampled`; never guessed
        from the ids, for a padding token may be one that can be said.
    - `size`: static.
    """
    if size < 1:
        raise ValueError(
            f"to_bytes(size=...) must be at least 1. Received size={size}. Take the "
            "longest text that a reward has to see."
        )
    vocab, time = token_bytes.length.shape[0], tokens.shape[0]
    keep = keep & (tokens >= 0) & (tokens < vocab)
    length = jnp.where(keep, token_bytes.length[tokens], 0)
    end = jnp.cumsum(length, dtype=jnp.int32)
    total = jnp.sum(length, dtype=jnp.int32)
    cut = jnp.maximum(total - size, 0)
    source = jnp.arange(size, dtype=jnp.int32) + cut
    # Which token does a byte come from? As many precede that token as have ended by
    # then. One scatter of `time` counts says so for every byte at once, four times as
    # fast on a CPU as a binary search for each.
    ended = jnp.zeros(size, jnp.int32).at[jnp.maximum(end - cut, 0)].add(1, mode="drop")
    index = jnp.minimum(jnp.cumsum(ended, dtype=jnp.int32), time - 1)
    offset = source - (end - length)[index]
    data = token_bytes.table[tokens[index], offset]
    return Bytes(jnp.where(source < total, data, 0), jnp.minimum(total, size))
