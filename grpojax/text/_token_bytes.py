"""The table of the bytes of every token."""

from collections.abc import Sequence
from typing import TypeAlias

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8


TokenIds: TypeAlias = Sequence[int] | Int[np.ndarray, " time"] | Int[Array, " time"]


class TokenBytes(eqx.Module):
    """The bytes of every token, to decode tokens inside a compiled program.

    Token `i` is `table[i, :length[i]]`; the row is right-padded with 0. Special tokens
    and unused ids have length 0.

    **Fields:**

    - `table`: as wide as the longest token.
    - `length`: of each token, bytes; int32.
    """

    table: UInt8[Array, "vocab width"]
    length: Int[Array, " vocab"]

    def join(self, ids: TokenIds) -> bytes:
        """The concatenated bytes of tokens, on the host.

        **Arguments:**

        - `ids`: token ids; those outside the table contribute nothing.

        **Returns:** the bytes.
        """
        table, length = np.asarray(self.table), np.asarray(self.length)
        return b"".join(
            table[token, : length[token]].tobytes()
            for token in np.asarray(ids, np.int64).tolist()
            if 0 <= token < len(length)
        )


def byte_table(pieces: Sequence[bytes]) -> TokenBytes:
    """The table of given tokens.

    **Arguments:**

    - `pieces`: the bytes of each token, in order of id; `b""` for a special token.

    **Returns:** the table.

    **Raises:** `ValueError` for no pieces.

    !!! example

        ```python
        table = byte_table([b"", b"4", b"2"])
        table.join([1, 2, 0])  # b"42"
        ```
    """
    if len(pieces) == 0:
        raise ValueError(
            "byte_table(pieces) needs at least one piece. Received none: pass the "
            "bytes of every token."
        )
    length = np.array([len(piece) for piece in pieces], np.int32)
    width = max(int(length.max()), 1)
    padded = b"".join(piece.ljust(width, b"\0") for piece in pieces)
    table = np.frombuffer(padded, np.uint8).reshape(len(pieces), width)
    return TokenBytes(jnp.asarray(table), jnp.asarray(length))
