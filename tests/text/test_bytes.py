import functools as ft

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax import text
from grpojax.text import oracle


PIECES = (b"", b"a", b"bc", b"\x00", b"\xff\xfe\xfd", b"", b"####", b"0123456789")
TIME = 9
tokens = st.lists(
    st.tuples(st.integers(-2, len(PIECES) + 2), st.booleans()),
    min_size=TIME,
    max_size=TIME,
)


@ft.partial(jax.jit, static_argnames="size")
def to_bytes(ids, keep, size):
    return text.to_bytes(text.byte_table(PIECES), ids, keep, size=size)


@pytest.mark.parametrize("size", [1, 5, 20, 128])
@settings(max_examples=100, deadline=None)
@given(said=tokens)
def test_to_bytes_is_its_oracle(size, said):
    ids, keep = zip(*said, strict=True)
    result = to_bytes(jnp.asarray(ids, jnp.int32), jnp.asarray(keep), size)
    expected = oracle.to_bytes(PIECES, ids, keep, size=size)
    assert bytes(result) == expected
    # What is behind the end is zero.
    assert np.asarray(result.data).tobytes() == expected.ljust(size, b"\0")
    assert result.length.dtype == jnp.int32


def test_the_end_of_a_long_text_is_kept():
    ids = jnp.asarray([7, 7, 6, 1], jnp.int32)
    kept = text.to_bytes(text.byte_table(PIECES), ids, jnp.ones(4, bool), size=8)
    assert bytes(kept) == b"789####a"


def test_padding_that_can_be_said():
    # The padding token is an end token as well, and here it even has bytes.
    table = text.byte_table([b"7", b"#### "])
    ids = jnp.asarray([1, 0, 0, 0], jnp.int32)
    said = text.to_bytes(table, ids, jnp.asarray([True, True, False, False]), size=16)
    assert bytes(said) == b"#### 7"
    assert text.parse_integer(said, "####").value == 7


def test_rows_do_not_meet():
    ids = jr.randint(jr.key(0), (6, TIME), 0, len(PIECES))
    keep = jr.bernoulli(jr.key(1), 0.7, (6, TIME))
    table = text.byte_table(PIECES)
    rows = jax.vmap(lambda i, k: text.to_bytes(table, i, k, size=32))(ids, keep)
    for row in range(6):
        alone = to_bytes(ids[row], keep[row], 32)
        assert bytes(alone) == bytes(jax.tree.map(lambda leaf, r=row: leaf[r], rows))


def test_byte_table():
    table = text.byte_table(PIECES)
    assert table.table.shape == (len(PIECES), 10) and table.table.dtype == jnp.uint8
    assert table.length.tolist() == [len(piece) for piece in PIECES]
    assert table.join([2, 1, 0, 4, 99, -1]) == b"bca\xff\xfe\xfd"
    assert text.byte_table([b"", b""]).table.shape == (2, 1)


def test_messages():
    with pytest.raises(ValueError, match="at least one piece"):
        text.byte_table([])
    with pytest.raises(ValueError, match=r"5 bytes. Received size=4"):
        text.pack(b"12345", size=4)
    with pytest.raises(ValueError, match=r"at least 1. Received size=0"):
        to_bytes(jnp.zeros(TIME, jnp.int32), jnp.ones(TIME, bool), 0)
