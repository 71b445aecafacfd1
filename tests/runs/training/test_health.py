import dataclasses
import math

import pytest
from hypothesis import given, settings, strategies as st

from grpojax.runs.io import jsonl
from grpojax.runs.recipe.operation import Health
from grpojax.runs.training.health import Monitor, Thresholds


ENTROPY, LENGTH = "entropy", "completions/mean_length"
GAP = "sampling/sampling_logp_difference/mean"


def observe_all(records, **thresholds):
    """The reports on a run's records."""
    monitor = Monitor(Thresholds(**thresholds))
    return [monitor.observe(record) for record in records]


bad = st.sampled_from(
    [{"loss": math.nan}, {"loss": None}, {"loss": 0.0, "skipped_updates": 2}]
)
good = st.sampled_from([{"loss": 0.1, "skipped_updates": 0}, {"loss": -0.0}, {}])


@given(
    steps=st.lists(st.booleans(), max_size=30), most=st.integers(1, 4), data=st.data()
)
def test_a_run_stops_after_so_many_bad_steps_in_a_row(steps, most, data):
    records = [data.draw(bad if step else good) for step in steps]
    reports = observe_all(records, skipped_steps=most)
    stops = [report.stop is not None for report in reports]
    text = "".join("x" if step else "." for step in steps)
    expected = [text[: n + 1].endswith("x" * most) for n in range(len(text))]
    assert stops == expected
    off = observe_all(records, skipped_steps=None)
    assert not any(report.stop for report in off)


def test_a_stop_names_the_remedy():
    report = observe_all([{"loss": math.inf}] * 3, skipped_steps=3)[-1]
    assert report.stop is not None
    assert "not finite in 3 steps in a row" in report.stop
    assert "optimizer.learning_rate" in report.stop


@pytest.mark.parametrize(
    "name, threshold, look",
    [
        (ENTROPY, "entropy", "frac_reward_zero_std"),
        (LENGTH, "length", "completions.jsonl"),
    ],
)
def test_a_collapse_is_reported_once_until_it_recovers(name, threshold, look):
    values = [2.0, 2.0, 0.3, 0.3, 0.3, 2.0, 2.0, 0.1, 0.1]
    records = [{name: value} for value in values]
    reports = observe_all(records, window=2, **{threshold: 0.5})
    counts = [len(report.warnings) for report in reports]
    assert counts == [0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert "is 0.3 " in reports[3].warnings[0]
    assert "was 2 at first" in reports[3].warnings[0]
    assert look in reports[3].warnings[0]
    off = observe_all(records, window=2, **{threshold: None})
    assert not any(report.warnings for report in off)


def test_a_gap_above_its_threshold():
    gaps = [0.01, 0.5, 0.5, 0.01]
    reports = observe_all([{GAP: gap} for gap in gaps], window=1, log_prob_gap=0.4)
    assert [len(report.warnings) for report in reports] == [0, 1, 0, 0]
    assert f"`{GAP}` is 0.5 nats, more than 0.4" in reports[1].warnings[0]
    assert "update.recompute" in reports[1].warnings[0]


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
@given(records=st.lists(record, max_size=20))
def test_records_that_are_read_back_give_the_same_reports(records):
    read = jsonl.parse(jsonl.encode(*records))
    thresholds = dict(window=2, skipped_steps=2)
    assert observe_all(read, **thresholds) == observe_all(records, **thresholds)


@settings(max_examples=50)
@given(values=st.lists(st.floats(0.5, 1.0), max_size=20))
def test_what_stays_above_its_share_gives_no_warning(values):
    records = [{ENTROPY: value, LENGTH: value, GAP: value} for value in values]
    reports = observe_all(records, entropy=0.5, length=0.5, log_prob_gap=1.01)
    assert not any(report.warnings for report in reports)


@pytest.mark.parametrize(
    "thresholds",
    [{"skipped_steps": 0}, {"window": 0}, {"entropy": 1.0}, {"length": -0.1},
     {"log_prob_gap": 0.0}, {"entropy": math.nan}, {"log_prob_gap": math.nan}],
)  # fmt: skip
def test_thresholds_out_of_range_are_refused(thresholds):
    ((name, value),) = thresholds.items()
    with pytest.raises(ValueError, match=rf"`Thresholds.{name}` .*Received {value}"):
        Thresholds(**thresholds)


def test_a_recipe_has_the_same_thresholds_and_defaults():
    names = {field.name for field in dataclasses.fields(Thresholds)}
    assert vars(Health()) == {name: vars(Thresholds())[name] for name in names}


EQUAL, TRUNCATED = "frac_reward_zero_std", "completions/clipped_ratio"


@given(
    values=st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=20),
    most=st.integers(1, 4),
)
def test_equal_rewards_are_warned_of_after_so_many_steps(values, most):
    reports = observe_all(
        [{EQUAL: x, "reward": 0.0} for x in values], equal_rewards=most
    )
    text = "".join("x" if x == 1 else "." for x in values)
    ends = [text[: n + 1].endswith("x" * most) for n in range(len(text))]
    begins = [
        now and not before for before, now in zip([False, *ends], ends, strict=False)
    ]
    assert [len(report.warnings) == 1 for report in reports] == begins
    said = [sentence for report in reports for sentence in report.warnings]
    assert all("completions.jsonl" in x and "(0 on average)" in x for x in said)
    off = observe_all([{EQUAL: 1.0}] * 9, equal_rewards=None)
    assert not any(report.warnings for report in off)


def test_truncation_of_nearly_all_rows_is_warned_of():
    records = [{TRUNCATED: x} for x in (1.0, 1.0, 0.5, 0.96, 1.0, 1.0, 1.0, 0.2)]
    reports = observe_all(records, window=3)
    assert [len(report.warnings) for report in reports] == [0, 0, 0, 0, 0, 1, 0, 0]
    assert "rollout.max_new_tokens" in reports[5].warnings[0]
    off = observe_all(records, window=1, truncated=None)
    assert not any(report.warnings for report in off)
