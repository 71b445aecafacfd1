import math

import pytest
from hypothesis import given, settings, strategies as st

from grpojax.runs.training.health import Bounds, Guard


ENTROPY, LENGTH = "entropy", "completions/mean_length"
GAP = "sampling/sampling_logp_difference/mean"


def watch(records, **bounds):
    """The verdicts on a run's records."""
    guard, verdicts = Guard(Bounds(**bounds)), []
    for record in records:
        guard, verdict = guard.observe(record)
        verdicts.append(verdict)
    return verdicts


bad = st.sampled_from(
    [{"loss": math.nan}, {"loss": None}, {"loss": 0.0, "skipped_updates": 2}]
)
good = st.sampled_from([{"loss": 0.1, "skipped_updates": 0}, {"loss": -0.0}, {}])


@given(
    steps=st.lists(st.booleans(), max_size=30), most=st.integers(1, 4), data=st.data()
)
def test_it_stops_after_so_many_bad_steps_in_a_row(steps, most, data):
    records = [data.draw(bad if step else good) for step in steps]
    stops = [verdict.stop is not None for verdict in watch(records, skipped_steps=most)]
    text = "".join("x" if step else "." for step in steps)
    expected = [text[: n + 1].endswith("x" * most) for n in range(len(text))]
    assert stops == expected
    assert not any(verdict.stop for verdict in watch(records, skipped_steps=None))


def test_a_stop_says_what_to_do():
    verdict = watch([{"loss": math.inf}] * 3, skipped_steps=3)[-1]
    assert verdict.stop is not None
    assert "not finite in 3 steps in a row" in verdict.stop
    assert "optimizer.learning_rate" in verdict.stop


@pytest.mark.parametrize(
    "name, bound, look",
    [
        (ENTROPY, "entropy", "frac_reward_zero_std"),
        (LENGTH, "length", "completions.jsonl"),
    ],
)
def test_a_collapse_is_said_once_until_it_recovers(name, bound, look):
    values = [2.0, 2.0, 0.3, 0.3, 0.3, 2.0, 2.0, 0.1, 0.1]
    records = [{name: value} for value in values]
    verdicts = watch(records, window=2, **{bound: 0.5})
    assert [len(verdict.warnings) for verdict in verdicts] == [
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        1,
    ]
    assert "is 0.3 " in verdicts[3].warnings[0]
    assert "was 2 at first" in verdicts[3].warnings[0]
    assert look in verdicts[3].warnings[0]
    off = watch(records, window=2, **{bound: None})
    assert not any(verdict.warnings for verdict in off)


def test_a_gap_beyond_its_bound():
    gaps = [0.01, 0.5, 0.5, 0.01]
    verdicts = watch([{GAP: gap} for gap in gaps], window=1, log_prob_gap=0.4)
    assert [len(verdict.warnings) for verdict in verdicts] == [0, 1, 0, 0]
    assert f"`{GAP}` is 0.5 nats, more than 0.4" in verdicts[1].warnings[0]
    assert "update.recompute" in verdicts[1].warnings[0]


record = st.fixed_dictionaries(
    {},
    optional={
        ENTROPY: st.floats() | st.none(),
        LENGTH: st.floats(0, 100),
        GAP: st.floats(0, 1),
        "loss": st.floats() | st.none(),
        "skipped_updates": st.integers(0, 2),
    },
)


@settings(max_examples=50)
@given(records=st.lists(record, max_size=20), at=st.integers(0, 20))
def test_a_resumed_run_is_warned_no_differently(records, at):
    bounds = Bounds(window=2, skipped_steps=2)
    guard = Guard(bounds).replay(records[:at])
    later = []
    for values in records[at:]:
        guard, verdict = guard.observe(values)
        later.append(verdict)
    assert later == watch(records, window=2, skipped_steps=2)[at:]


@settings(max_examples=50)
@given(values=st.lists(st.floats(0.5, 1.0), max_size=20))
def test_what_stays_above_its_share_is_never_warned_of(values):
    records = [{ENTROPY: value, LENGTH: value, GAP: value} for value in values]
    verdicts = watch(records, entropy=0.5, length=0.5, log_prob_gap=1.01)
    assert not any(verdict.warnings for verdict in verdicts)


@pytest.mark.parametrize(
    "bounds",
    [{"skipped_steps": 0}, {"window": 0}, {"entropy": 1.0}, {"length": -0.1},
     {"log_prob_gap": 0.0}],
)  # fmt: skip
def test_bounds_that_make_no_sense(bounds):
    ((name, value),) = bounds.items()
    with pytest.raises(ValueError, match=f"Received {name}={value}: use"):
        Bounds(**bounds)
