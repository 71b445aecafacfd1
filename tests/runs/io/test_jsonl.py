import json

from hypothesis import given, strategies as st

from grpojax.runs.io.jsonl import complete_lines, truncate


steps = st.lists(st.integers(1, 30), max_size=12).map(sorted)


def lines(steps):
    return [
        json.dumps({"step": step, "text": "a\u2028b"}).encode() + b"\n"
        for step in steps
    ]


@given(steps=steps, step=st.integers(0, 30), half=st.integers(0, 10))
def test_a_journal_is_what_it_was_at_a_step(steps, step, half):
    content = b"".join(lines(steps)) + b'{"step": 1}'[:half]
    expected = b"".join(lines(s for s in steps if s <= step))
    assert truncate(content, step) == (expected, None)


@given(steps=steps, step=st.integers(0, 30), at=st.integers(0, 12), data=st.data())
def test_cut_anywhere_and_brought_back(steps, step, at, data):
    content = b"".join(lines(steps))
    saved = b"".join(lines([s for s in steps if s <= step][:at]))
    found = content[: data.draw(st.integers(0, len(content)))]
    kept, problem = truncate(found, step, saved)
    assert kept.startswith(saved)
    assert b"".join(lines(s for s in steps if s <= step)).startswith(kept)
    assert (problem is not None) == (len(found) < len(saved))
    assert truncate(kept, step, saved) == (kept, None)


def test_damaged_lines_are_named():
    good = lines([1, 2, 3])
    found = b"".join([good[0], b"garbage\n", good[1], b"[1]\n", b"{}\n", good[2]])
    kept, problem = truncate(found, 2)
    assert kept == good[0] + good[1]
    assert problem == "had lines that are no records, which were removed: 2, 4, 5"


def test_what_was_changed_is_brought_back():
    good = lines([1, 2, 3])
    kept, problem = truncate(good[0], 2, saved=good[0] + good[1])
    assert kept == good[0] + good[1]
    assert problem == (
        "did not begin with the 2 lines that its checkpoint saved, which were restored"
    )


@given(content=st.binary(max_size=20), half=st.binary(max_size=5))
def test_whole_lines(content, half):
    half = half.replace(b"\n", b"")
    assert complete_lines(content + b"\n" + half) == content + b"\n"
    assert complete_lines(half) == b""
