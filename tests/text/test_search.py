import pytest

from grpojax import text


THINK = b"<think>1+1</think>\n<answer>2</answer>"


@pytest.mark.parametrize(
    "content, pattern, expected",
    [
        (b"aXbXc", b"X", 2),
        (b"###", b"##", 2),
        (b"", b"a", 0),
        (b"ab", b"abc", 0),
        (b"a\x00\x00", b"\x00", 2),  # Not what fills the room up.
        (b"<answer>", b"</answer>", 0),
    ],
)
def test_count(content, pattern, expected):
    packed = text.pack(content, size=16)
    assert text.count(packed, pattern) == expected
    assert text.contains(packed, pattern) == (expected > 0)


@pytest.mark.parametrize(
    "content, expected",
    [
        (THINK, True),
        (b"So: " + THINK + b" Done.", True),
        (THINK + THINK, False),
        (THINK + b"</answer>", False),
        (b"<answer>2</answer><think>1+1</think>", False),
        (b"<think><answer></think></answer>", False),
        (b"<think>1+1</think>2", False),
        (b"</think><think><answer></answer>", False),
        (b"", False),
    ],
)
def test_tags_in_order(content, expected):
    assert text.tags_in_order(text.pack(content, size=96)) == expected


def test_messages():
    content = text.pack(b"", size=4)
    with pytest.raises(ValueError, match="at least one byte"):
        text.count(content, b"")
    with pytest.raises(ValueError, match="at least one tag"):
        text.tags_in_order(content, ())
    with pytest.raises(ValueError, match=r"Received b'a b'"):
        text.tags_in_order(content, (b"a b",))
