"""Options and labels equal their regular expressions, on arbitrary bytes."""

import jax
import pytest
from hypothesis import example, given, settings, strategies as st

from grpojax import text
from grpojax.text import oracle
from tests.helpers import mostly_slow


WORDS = (("up", "rise"), ("down",), ("same", "nochange"))
PLAIN = (("up",), ("down",), ("no_change", "stay the same"))
TAGS = ("opinion", "opinion_change")
ATOMS = [
    *(
        b"<answer>",
        b"</answer>",
        b"<Answer>",
        b"</ANSWER>",
        b"<opinion>",
        b"</opinion>",
    ),
    *(b"<opinion_change>", b"</opinion_change>", b"<OPINION>", b"<think>", b"</think>"),
    *(b"0", b"3", b"3", b"03", b"12", b"1234567", b"option", b"Option ", b"OPTION\t"),
    *(b"up", b"UP", b"rise", b"no_change", b"No change", b"same", b"stay the same"),
    *(b"down", b" ", b" ", b"\n", b"\r", b".", b"<", b">", b"\x00", b"\xff", b"x"),
    *"é ３ Ⅲ".encode().split(b" "),
]
atoms = st.lists(st.sampled_from(ATOMS) | st.binary(max_size=2), max_size=4)
payloads = atoms.map(b"".join)
pairs = st.builds(
    lambda tag, payload: b"<%b>%b</%b>" % (tag, payload, tag),
    st.sampled_from([b"answer", b"opinion", b"opinion_change", b"Opinion"]),
    payloads,
)
# Every other text is well-formed.
good = st.sampled_from(
    [
        *(b"<answer>12</answer>", b"<answer>1</answer><opinion>up</opinion>"),
        *(b"<opinion>stay the same</opinion>", b"<opinion>7</opinion>"),
    ]
)
texts = good | st.lists(payloads | pairs | pairs, max_size=5).map(b"".join)

PARSERS = [
    *(("parse_option", {"plain": plain}) for plain in (False, True)),
    ("parse_option", {"tag": "opinion"}),
    ("parse_label", {"words": WORDS, "tags": TAGS}),
    ("parse_label", {"words": PLAIN, "tags": TAGS, "plain": True}),
]


@jax.jit
def graph(content):
    return [getattr(text, name)(content, **options) for name, options in PARSERS]


def by_hand(content):
    return [getattr(oracle, name)(content, **options) for name, options in PARSERS]


@pytest.mark.parametrize(
    "size, examples", mostly_slow([(9, 100), (72, 300), (72, 10_000)], [(72, 300)])
)
def test_agrees(size, examples):
    @settings(max_examples=examples, deadline=None)
    @given(content=texts)
    @example(content=b"<opinion>" * 9)
    @example(content=b"")
    def agrees(content):
        content = content[:size]
        found = jax.device_get(graph(text.pack(content, size=size)))
        values = [x.value.item() if x.valid else None for x in found]
        assert all(x.valid or x.value == 0 for x in found)
        assert values == by_hand(content)

    agrees()


@pytest.mark.parametrize(
    ("content", "value", "plain"),
    [
        ("<answer>3</answer>", 3, 3),
        ("<answer>\n 3 \n</answer>", 3, 3),
        ("<answer>Option 3</answer>", 3, None),
        ("<answer>option3</answer>", 3, None),
        ("<answer>03</answer>", 3, None),
        ("<ANSWER>3</ANSWER>", 3, None),
        ("<answer>3.</answer>", None, None),
        ("<answer>option</answer>", None, None),
        ("<answer>1</answer> <answer>3</answer>", 1, None),
        ("<answer><answer>3</answer>", 3, None),
        ("<answer>1\n2</answer><answer>3</answer>", 3, None),
        ("<answer>99999999999</answer>", 10**6, 10**6),
        ("<think><answer>1</answer></think><answer>3</answer>", 3, None),
        ("<answer>3", None, None),
        ("3", None, None),
        ("<answer>３</answer>", None, None),
    ],
)
def test_options(content, value, plain):
    content = content.encode()
    found = graph(text.pack(content, size=72))[:2]
    assert [x.value.item() if x.valid else None for x in found] == [value, plain]
    assert by_hand(content)[:2] == [value, plain]
