"""Every function on `Bytes` equals its regular expression, on arbitrary bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from grpojax import text
from grpojax.text import oracle


ATOMS = [
    *(
        b"0",
        b"00",
        b"1",
        b"7",
        b"9",
        b"18",
        b"2147483647",
        b"2147483648",
        b"4294967297",
    ),
    *(b",", b",", b".", b".", b"-", b"-", b"$", b")", b"x", b"Z", b"/", b":"),
    *(b"#", b"####", b"<answer>", b"</answer>", b"<think>", b"</think>", b"<", b">"),
    *(b" ", b"\n", b"\t", b"\r", b"\x0b", b"\x0c", b"\x00", b"\x1f", b"\xff", b"\xc2"),
]
texts = st.lists(st.sampled_from(ATOMS) | st.binary(max_size=3), max_size=16).map(
    b"".join
)
payloads = st.lists(
    st.sampled_from([b"1", b"20", b",", b".", b"0", b"-", b"$", b" ", b"\n"]),
    max_size=6,
).map(b"".join)
contents = st.one_of(
    texts,
    st.tuples(texts, payloads, texts).map(
        lambda parts: b"%b<answer>%b</answer>%b" % parts
    ),
    st.tuples(texts, payloads, texts).map(lambda parts: b"%b####%b%b" % parts),
)

# (in the graph, its oracle)
PAIRS = {
    "number_after": (text.number_after, oracle.number_after),
    "number_after_x": (
        lambda content: text.number_after(content, b"x"),
        lambda content: oracle.number_after(content, b"x"),
    ),
    "number_in_tag": (text.number_in_tag, oracle.number_in_tag),
    "number_in_think": (
        lambda content: text.number_in_tag(content, b"think"),
        lambda content: oracle.number_in_tag(content, b"think"),
    ),
    "last_number": (text.last_number, oracle.last_number),
    "count": (
        lambda content: text.count(content, b"##"),
        lambda content: oracle.count(content, b"##"),
    ),
    "contains": (
        lambda content: text.contains(content, b"\x00"),
        lambda content: oracle.contains(content, b"\x00"),
    ),
    "tags_in_order": (text.tags_in_order, oracle.tags_in_order),
    "tags_in_order_one": (
        lambda content: text.tags_in_order(content, (b"answer",)),
        lambda content: oracle.tags_in_order(content, (b"answer",)),
    ),
}


@jax.jit
def graph(content):
    return {name: in_graph(content) for name, (in_graph, _) in PAIRS.items()}


def host(result):
    if isinstance(result, text.ParsedInteger):
        assert result.value.dtype == jnp.int32
        assert result.valid or result.value == 0
        return result.value.item() if result.valid else None
    return result.item()


# Texts may fill their room, be shorter than a pattern, and have rubbish behind them.
@pytest.mark.parametrize("size, examples", [(1, 20), (3, 30), (10, 100), (56, 1000)])
def test_agrees(size, examples):
    @settings(max_examples=examples, deadline=None)
    @given(content=contents, clean=st.booleans())
    @example(content=b"7" * size, clean=True)
    @example(content=b"#" * size, clean=True)
    @example(content=b" " * size, clean=False)
    @example(content=b"", clean=False)
    def agrees(content, clean):
        content = content[:size]
        packed = text.pack(content, size=size)
        if not clean:
            rubbish = jnp.asarray(
                np.resize(np.frombuffer(b"7</answer>#", np.uint8), size)
            )
            behind = jnp.arange(size) >= packed.length
            packed = text.Bytes(jnp.where(behind, rubbish, packed.data), packed.length)
        results = jax.device_get(graph(packed))
        for name, (_, by_hand) in PAIRS.items():
            assert host(results[name]) == by_hand(content), name

    agrees()


def test_gsm8k(gsm8k):
    answers = [row["answer"].encode() for row in gsm8k]
    gold = [int(row["answer"].split("#### ")[1].replace(",", "")) for row in gsm8k]
    assert len(gold) == 8792 and sum(abs(value) > 2**24 for value in gold) == 4
    size = max(map(len, answers))
    read = jax.jit(
        jax.vmap(
            lambda content: (text.number_after(content), text.last_number(content))
        )
    )
    for begin in range(0, len(answers), 1099):
        rows = answers[begin : begin + 1099]
        data = b"".join(row.ljust(size, b"\0") for row in rows)
        packed = text.Bytes(
            jnp.asarray(np.frombuffer(data, np.uint8).reshape(-1, size)),
            jnp.asarray([len(row) for row in rows], jnp.int32),
        )
        for number in read(packed):
            assert np.asarray(number.valid).all()
            assert np.asarray(number.value).tolist() == gold[begin : begin + 1099]
    for answer, value in zip(answers, gold, strict=True):
        assert oracle.number_after(answer) == oracle.last_number(answer) == value
        assert oracle.number_in_tag(b"<answer>%d</answer>" % value) == value
