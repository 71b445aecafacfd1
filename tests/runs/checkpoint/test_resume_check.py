import dataclasses
from dataclasses import dataclass, field

import pytest

from grpojax.runs.checkpoint.resume_check import check_resumable


@dataclass(frozen=True)
class Run:
    steps: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 1e-3
    schedule: str = "constant"


@dataclass(frozen=True)
class Checkpoint:
    every: int = 5


@dataclass(frozen=True)
class Recipe:
    run: Run = field(default_factory=Run)
    optimizer: Optimizer = field(default_factory=Optimizer)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)


def test_how_long_and_how_it_is_watched_may_change():
    check_resumable(Recipe(), Recipe())
    check_resumable(Recipe(), Recipe(run=Run(steps=9), checkpoint=Checkpoint(every=1)))


def test_each_key_is_named_with_both_values():
    new = Recipe(Run(steps=9, seed=1), Optimizer(learning_rate=0.5))
    with pytest.raises(ValueError) as raised:
        check_resumable(Recipe(), new)
    assert "`run.seed` was 0 and is 1" in str(raised.value)
    assert "`optimizer.learning_rate` was 0.001 and is 0.5" in str(raised.value)
    assert "run.steps" not in str(raised.value)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_fixes_the_number_of_steps(schedule):
    old = Recipe(optimizer=Optimizer(schedule=schedule))
    check_resumable(old, old)
    with pytest.raises(ValueError, match="`run.steps` was 4 and is 9"):
        check_resumable(old, dataclasses.replace(old, run=Run(steps=9)))


def test_mappings_whose_keys_are_sections_or_full_names():
    check_resumable(dataclasses.asdict(Recipe()), Recipe())
    check_resumable({"run.seed": 0, "run.steps": 1}, {"run": {"seed": 0, "steps": 2}})
    with pytest.raises(ValueError, match=r"`run.seed` was 0 and is '\(absent\)'"):
        check_resumable({"run.seed": 0}, {})


def test_other_keys_may_be_free():
    new = Recipe(run=Run(seed=3))
    check_resumable(Recipe(), new, free=("run.*",))
    with pytest.raises(ValueError, match="`run.seed` was 0 and is 3"):
        check_resumable(Recipe(), new, free=("run.seeds",))
