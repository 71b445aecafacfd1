"""Configurations that a run may be resumed with."""

from typing import Any

import pytest

from grpojax.runs.checkpoint.resume_check import check_resumable


def config(**changes: object) -> dict[str, Any]:
    """A nested configuration; `config(run__seed=1)` changes a key."""
    values: dict[str, Any] = {
        "run": {"steps": 4, "seed": 0},
        "optimizer": {"learning_rate": 1e-3, "schedule": "constant"},
        "checkpoint": {"every": 5},
    }
    for name, value in changes.items():
        section, key = name.split("__")
        values[section][key] = value
    return values


def test_length_and_operation_may_change():
    check_resumable(config(), config())
    check_resumable(config(), config(run__steps=9, checkpoint__every=1))


def test_each_key_is_named_with_both_values():
    new = config(run__steps=9, run__seed=1, optimizer__learning_rate=0.5)
    with pytest.raises(ValueError) as raised:
        check_resumable(config(), new, where="its last checkpoint")
    assert "`run.seed` was 0 and is 1" in str(raised.value)
    assert "`optimizer.learning_rate` was 0.001 and is 0.5" in str(raised.value)
    assert "run.steps" not in str(raised.value)
    assert "as its last checkpoint records it" in str(raised.value)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_fixes_the_number_of_steps(schedule):
    old = config(optimizer__schedule=schedule)
    check_resumable(old, old)
    new = config(optimizer__schedule=schedule, run__steps=9)
    with pytest.raises(ValueError, match="`run.steps` was 4 and is 9"):
        check_resumable(old, new)


def test_mappings_whose_keys_are_sections_or_full_names():
    check_resumable({"run.seed": 0, "run.steps": 1}, {"run": {"seed": 0, "steps": 2}})
    with pytest.raises(ValueError, match=r"`run.seed` was 0 and is '\(absent\)'"):
        check_resumable({"run.seed": 0}, {})
    with pytest.raises(ValueError, match=r"`run.seed` was '\(absent\)' and is 0"):
        check_resumable({}, {"run": {"seed": 0}})
