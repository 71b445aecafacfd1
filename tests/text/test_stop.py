"""A stop string is found in the text of tokens, wherever they begin and end."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from grpojax.text import byte_table, oracle, stop_string


few = st.text("ab", min_size=1, max_size=5).map(str.encode)
pieces_of = st.lists(st.text("ab", max_size=4).map(str.encode), min_size=1, max_size=8)


@pytest.mark.laws
@settings(max_examples=150, deadline=None)
@given(pieces=pieces_of, pattern=few, data=st.data())
def test_agrees_with_its_oracle(pieces, pattern, data):
    tokens = data.draw(st.lists(st.integers(0, len(pieces) - 1), max_size=12))
    spelled = oracle.stop_string(pieces, tokens, pattern)
    try:
        stop = stop_string(byte_table(pieces), pattern)
    except ValueError:
        assert not any(spelled)
        return
    state, found = 0, []
    for token in tokens:
        state = int(np.asarray(stop.transitions)[state, token])
        found.append(state == stop.found)
    assert found == spelled
    if any(found):
        assert found.index(True) + 1 >= stop.fewest_tokens


@pytest.mark.parametrize("pattern", ["</answer>", "\n\n", "é", "aa", "Question:"])
def test_tokens_may_split_it_anywhere(pattern):
    content = pattern.encode()
    pieces = [bytes([x]) for x in sorted(set(content))]
    pieces += [content[i:j] for i in range(len(content)) for j in range(i + 1, 10)]
    pieces = [b"", b"x", *dict.fromkeys(pieces), b"x" + content, content + b"x"]
    stop = stop_string(byte_table(pieces), content)
    assert stop.fewest_tokens == 1
    for i in range(1, len(content)):
        state = jnp.zeros((), jnp.int32)
        for part in (b"x", b"", content[:i], b"", content[i:], b"x"):
            assert int(state) < stop.found or part == b"x"
            state = stop(state, jnp.array(pieces.index(part)))
        assert int(state) == stop.found


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (b"", "between 1 and 255 bytes. Received b''.* every text contains"),
        (b"a" * 256, "between 1 and 255 bytes. Received .* of 256"),
        (b"abc", "Received 'abc', which no sequence of them contains"),
    ],
)
def test_what_cannot_match_is_refused(pattern, message):
    with pytest.raises(ValueError, match=message):
        stop_string(byte_table([b"a", b"b", b""]), pattern)
