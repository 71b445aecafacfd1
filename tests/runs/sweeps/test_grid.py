"""The runs that a recipe describes."""

import pytest

from grpojax.runs.recipe.load import dump, load, parse
from grpojax.runs.recipe.schema import Recipe
from grpojax.runs.sweeps.grid import first_of, is_sweep, program_of, recipes_of


RATES = "sweep.optimizer.learning_rate=[1e-4, 1e-3]"


def recipe(*assignments):
    return load(Recipe(), None, assignments)


def test_seeds_count_from_the_recipes_own():
    found = recipes_of(recipe("run.seeds=3", "run.seed=5"))
    assert {name: x.run.seed for name, x in found.items()} == {
        "seed-5": 5,
        "seed-6": 6,
        "seed-7": 7,
    }
    # Each is the recipe of a run of its own.
    assert found["seed-6"] == recipe("run.seed=6")
    assert not any(map(is_sweep, found.values()))
    assert len({dump(program_of(x)) for x in found.values()}) == 1


def test_a_sweep_has_a_run_for_each_combination():
    found = recipes_of(
        recipe("run.seeds=2", RATES, "sweep.algorithm.name=[grpo, gspo]")
    )
    assert list(found)[:3] == [
        "name-grpo-learning_rate-0.0001-seed-0",
        "name-grpo-learning_rate-0.0001-seed-1",
        "name-grpo-learning_rate-0.001-seed-0",
    ]
    assert len(found) == 8
    last = found["name-gspo-learning_rate-0.001-seed-1"]
    given = "algorithm.name=gspo", "optimizer.learning_rate=1e-3", "run.seed=1"
    assert last == recipe(*given)
    # A learning rate needs no other program, an algorithm does; they are not mixed up.
    programs = [dump(program_of(x)) for x in found.values()]
    assert programs[:4] == programs[:1] * 4 and programs[4:] == programs[4:5] * 4
    assert programs[0] != programs[4]


def test_a_sweep_may_be_written_in_either_way():
    nested = recipe("sweep={optimizer: {learning_rate: [1e-4, 1e-3]}}")
    assert nested == recipe(RATES) and nested.sweep == {
        "optimizer.learning_rate": [1e-4, 1e-3]
    }
    assert parse(Recipe(), dump(nested)) == nested
    both = recipe(RATES, "sweep.rollout.group=[4, 8]")
    assert list(both.sweep or ()) == ["optimizer.learning_rate", "rollout.group"]


def test_values_that_are_no_name_are_numbered():
    shapings = "sweep.reward.shapings=[[], [zero_truncated]]"
    found = recipes_of(recipe(shapings, "sweep.update.chunk=[null, 8]"))
    assert list(found)[:2] == ["shapings-0-chunk-None", "shapings-0-chunk-8"]
    same = recipes_of(recipe("sweep.data.path=[a, b/c]", "sweep.model.path=[x, y]"))
    assert list(same)[-1] == "data.path-1-model.path-y"


def test_the_first_run_of_a_sweep_has_its_directory(tmp_path):
    assert first_of(recipe(), tmp_path) == (recipe(), tmp_path)
    assert first_of(recipe("run.seeds=2"), tmp_path) == (recipe(), tmp_path / "seed-0")
    assert first_of(recipe("run.seeds=2"), None) == (recipe(), None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["sweep.run.seeds=[1]"], "`run.seeds`"),
        (["sweep.run.steps=[1, 2]"], "`run.steps`"),
        (["sweep.run.seed=[1, 2]", "run.seeds=2"], "`run.seed`"),
        (["sweep.run.sed=[1, 2]"], "nearest is `run.seed`"),
        (["sweep.rollout.group=[four]"], "`rollout.group` must be an integer"),
        (["sweep.rollout.group=[4, 4]"], "twice"),
        (["sweep.rollout.group=[8, 8]"], "twice"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        recipes_of(recipe(*given))


@pytest.mark.parametrize("value", ["3", "{}", "{rollout.group: 4}", "[1]"])
def test_a_sweep_is_lists_by_key(value):
    with pytest.raises(ValueError, match="a mapping from keys to lists of values"):
        recipe(f"sweep={value}")
