"""Records of completions: JSON there and back, and whatever else a line holds."""

import dataclasses
import json

import pytest
from hypothesis import given, settings, strategies as st

from grpojax.runs.io.jsonl import read_tolerant
from grpojax.runs.io.records import Sample, SampleGroup
from grpojax.runs.io.tables import flatten


NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(0, 99) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from([*Sample.__dataclass_fields__, "step", "prompt", "samples"])


TOKENS = st.lists(st.tuples(st.text(max_size=3), NUMBER, st.booleans()), max_size=4)
REWARDS = st.dictionaries(st.text(max_size=3), NUMBER, max_size=2)
FLAGS = st.tuples(st.booleans(), st.booleans())
SAMPLES = st.lists(st.tuples(TOKENS, REWARDS, NUMBER, NUMBER, FLAGS), max_size=3)


def sample_of(tokens, rewards, total, advantage, flags):
    pieces = [piece for piece, _, _ in tokens]
    return Sample(
        text="".join(pieces),
        pieces=pieces,
        log_prob=[log_prob for _, log_prob, _ in tokens],
        sampled=[sampled for _, _, sampled in tokens],
        rewards=rewards,
        total=total,
        valid=flags[0],
        advantage=advantage,
        terminated=flags[1],
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.text(max_size=5), SAMPLES)
def test_json_there_and_back_is_the_same_record(step, prompt, samples):
    group = SampleGroup(step, prompt, [sample_of(*sample) for sample in samples])
    line = json.dumps(dataclasses.asdict(group), allow_nan=False)
    assert SampleGroup.from_json(json.loads(line)) == group


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, JSON))
def test_any_sample_parses(record):
    sample = Sample.from_json(record)
    assert len(sample.pieces) == len(sample.log_prob) == len(sample.sampled)
    json.dumps(dataclasses.asdict(sample), allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(KEYS, JSON))
def test_a_group_needs_a_step_and_samples(record):
    try:
        assert isinstance(SampleGroup.from_json(record).step, int)
    except ValueError as error:
        assert "has a step and a list of samples" in str(error)


@pytest.mark.parametrize(
    ("rewards", "total", "correct"),
    [
        ({"correct": 1.0}, 0.0, True),
        ({"correct": 0.0, "format": 1.0}, 1.0, False),
        ({"format": 1.0}, 1.0, True),
        ({"correct": None}, 1.0, None),
        ({}, None, None),
    ],
)
def test_correct_is_the_component_or_any_reward(rewards, total, correct):
    sample = Sample.from_json({"rewards": rewards, "total": total})
    assert sample.correct is correct


def test_a_tolerant_read_skips_and_names_what_is_damaged(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"step": 1}\nnoise\n\n[2]\n{"step": 3}\n{"st')
    records, flaws = read_tolerant(path)
    assert records == [{"step": 1}, {"step": 3}]
    assert flaws == [
        "The last line of `lines.jsonl` is truncated and was skipped.",
        "`lines.jsonl` has 2 unreadable lines, the first of them line 2; they were "
        "skipped.",
    ]
    missing = tmp_path / "missing.jsonl"
    assert read_tolerant(missing) == ([], ["`missing.jsonl` is missing."])
    assert read_tolerant(missing, optional=True) == ([], [])


def test_flatten_joins_keys_and_keeps_lists():
    nested = {"a": {"b": {"c": 1}, "d": [{"e": 2}]}, "f": None}
    assert flatten(nested) == {"a.b.c": 1, "a.d": [{"e": 2}], "f": None}
    expanded = {"a.b.c": 1, "a.d[0].e": 2, "f": None}
    assert flatten(nested, lists=True) == expanded
    assert flatten({"a": [[1, 2], [], {}], "b": (3,)}, lists=True) == {
        "a[0]": [1, 2],
        "a[1]": [],
        "b": (3,),
    }
