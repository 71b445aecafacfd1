"""Every function on `Bytes` equals its regular expression, on arbitrary bytes."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from grpojax import text
from grpojax.text import oracle
from tests.helpers import mostly_slow


ATOMS = [
    *(b"0", b"00", b"1", b"7", b"9", b"18", b"234", b"234", b"50"),
    *(b"2147483647", b"2147483648", b"4294967297", b"123456789"),
    *(b",", b",", b".", b".", b"-", b"-", b"$", b")", b"x", b"Z", b"e", b":", b"_"),
    *(b"*", b"/", b"^", b"+", b"=", b">", b"<", b">>", b" or ", b"!", b"%", b"\\"),
    *(b"{", b"}", b"{,}", b"\\,", b"\\boxed{", b"\\fbox{", b"\\pi", b"\\pm", b"^{"),
    *(b"\\times", b"\\cdot", b"\\$", b"**", b"'", b" > ", b"\\}", b"box"),
    *(x.encode() for x in "\u2212\u2013\u00a0\u2009\u202f\u2019€£×÷±≤≥≠½²⅓⁵π"),
    *(b"A", b"B", b"D", b"I", b" is ", b" and ", b"or", b"(B)", b" A b", b"C."),
    *(b"the ", b"an", b"a ", b"\\text{", b"\\mathbf{", b'"', b"\xc3\x89", b"\xc3\x97"),
    *(b"\xe2\x80\x9c", b"\xe2\x80\x9d"),
    *(b"#", b"####", b"<answer>", b"</answer>", b"<think>", b"</think>"),
    *(b" ", b" ", b"\n", b"\t", b"\r", b"\x0b", b"\x0c", b"\x00", b"\x1f", b"\xff"),
    *(b"\xc2", b"\xe2", b"\x82", b"\x80"),
]
texts = st.lists(st.sampled_from(ATOMS) | st.binary(max_size=3), max_size=16).map(
    b"".join
)
# Thoughts hide everything before them: in most texts there are none.
ANSWERS = [
    x for x in ATOMS if b"think" not in x and b"answer" not in x and x != b"####"
]
payloads = st.lists(st.sampled_from(ANSWERS), max_size=8).map(b"".join)
contents = st.one_of(
    texts,
    payloads,
    st.builds(
        lambda around, before, inside, after: (
            b"%b%b%b" % (before, around % inside, after)
        ),
        st.sampled_from([b"<answer>%b</answer>", b"####%b", b"is:%b", b"\\boxed{%b}"]),
        payloads | texts,
        payloads,
        payloads | texts,
    ),
)
BOTH = (False, True)
FINDS = ("####", "tag", "boxed", "last", "all", "auto", "is:")
PARSERS = [
    *(("parse_integer", find, {"plain": plain}) for find in FINDS for plain in BOTH),
    *(("parse_decimal", find, {}) for find in ("####", "last")),
    *(("parse_choice", find, {"plain": plain}) for find in FINDS for plain in BOTH),
    ("parse_choice", "last", {"letters": "ABCDEFGHI"}),
    *(("parse_text", find, {}) for find in FINDS),
    ("parse_text", "tag", {"plain": True}),
]

# (in the graph, its oracle)
PAIRS = {
    **{
        f"{name} {find} {options}": (
            functools.partial(getattr(text, name), find=find, **options),
            functools.partial(getattr(oracle, name), find=find, **options),
        )
        for name, find, options in PARSERS
    },
    "normalize": (text.normalize, oracle.normalize),
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
    if isinstance(result, text.ParsedDecimal):
        sign = -1 if result.negative else 1
        value = sign * (int(result.integer) + Fraction(int(result.fraction), 10**9))
        assert result.valid or (value == 0 and sign == 1)
        return value if result.valid else None
    if isinstance(result, text.ParsedInteger):
        assert result.value.dtype == jnp.int32
        assert result.valid or result.value == 0
        return result.value.item() if result.valid else None
    if isinstance(result, text.Bytes):
        return bytes(result)
    return result.item()


# Texts may fill their room, be shorter than a pattern, and have rubbish behind them.
@pytest.mark.parametrize(
    "size, examples",
    mostly_slow([(1, 20), (9, 100), (56, 150), (56, 1500)], [(1, 20), (56, 150)]),
)
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


@pytest.mark.slow
def test_gsm8k(gsm8k):
    answers = [row["answer"].encode() for row in gsm8k]
    gold = [int(row["answer"].split("#### ")[1].replace(",", "")) for row in gsm8k]
    assert len(gold) == 8792 and sum(abs(value) > 2**24 for value in gold) == 4
    size = max(map(len, answers))
    read = jax.jit(
        jax.vmap(
            lambda content: (
                text.parse_integer(content, "####"),
                text.parse_integer(content, "last"),
            )
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
        for find in ("####", "last", "auto"):
            assert oracle.parse_integer(answer, find) == value
        assert oracle.parse_integer(b"<answer>%d</answer>" % value, "tag") == value
