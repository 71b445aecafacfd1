"""What a run is: the recipes that are shipped, those of old, and what cannot be."""

import dataclasses
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import yaml

from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Algorithm, check_paths, Recipe, Run


ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "examples" / "recipes"
OLD = Path(__file__).parent / "recipes_v1"


@pytest.mark.parametrize(
    "path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem
)
def test_recipes_load_and_round_trip(path, tmp_path):
    recipe = recipes.load(Recipe(), path)
    check_paths(recipe)
    again = tmp_path / "again.yaml"
    again.write_text(recipes.dump(recipe))
    assert recipes.load(Recipe(), again) == recipe


def test_the_default_recipe_is_the_default():
    path = RECIPES / "gsm8k-tiny.yaml"
    assert recipes.load(Recipe(), path) == Recipe()
    spelled_out = [line for line in path.read_text().splitlines() if line[0] != "#"]
    assert spelled_out == recipes.dump(Recipe()).splitlines()


def test_every_algorithm_has_a_recipe():
    names = typing.get_args(typing.get_type_hints(Algorithm)["name"])
    found = {
        recipes.load(Recipe(), path).algorithm.name: path.stem
        for path in (RECIPES / "algorithms").glob("*.yaml")
    }
    assert found == {name: name for name in names}


@pytest.mark.parametrize("path", sorted(OLD.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_of_old_load_and_mean_the_same(path):
    """These files are never edited: somebody has them."""
    was = yaml.safe_load(path.read_text())
    now = dataclasses.asdict(recipes.load(Recipe(), path))
    assert len(was) == 8 and sum(map(len, was.values())) == 48
    for section, keys in was.items():
        for key, value in keys.items():
            # YAML 1.1 takes an exponent without a point for text.
            same = float(value) if isinstance(now[section][key], float) else value
            assert now[section][key] == same, f"{section}.{key}"


def test_a_recipe_is_printed_without_jax():
    program = (
        "import sys\n"
        "from grpojax.runs import commands\n"
        "commands.main(['train', '--print-config', '--set', 'run.steps=0'], {})\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'jax', 'jaxlib', 'equinox', 'optax', 'numpy', 'rich'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    recipe = dataclasses.replace(Recipe(), run=Run(steps=0))
    assert done.stdout == recipes.dump(recipe)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("run.steps=-1", "`run.steps` must be at least 0. Received -1"),
        ("run.max_eval_problems=0", "`run.max_eval_problems` must be at least 1."),
        ("rollout.group=0", "`rollout.group` must be at least 1. Received 0"),
        ("rollout.slots=0", "`rollout.slots` must be at least 1. Received 0"),
        ("rollout.temperature=0", "`rollout.temperature` must be positive"),
        ("optimizer.clip_norm=0", "`optimizer.clip_norm` must be positive"),
        ("data.train_rows=0", "`data.train_rows` must be at least 1. Received 0"),
        ("algorithm.beta=-1", "`algorithm.beta` must be at least 0. Received -1.0"),
        ("algorithm.name=ppo", "`algorithm.name` must be one of 'grpo', 'dr_grpo', "),
        ("log.every=0", "`log.every` must be at least 1. Received 0"),
        ("log.completions=-1", "`log.completions` must be at least 0. Received -1"),
        ("data.train_row=3", "nearest is `data.train_rows`"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(assignment, message):
    with pytest.raises(ValueError) as caught:
        recipes.load(Recipe(), None, [assignment])
    assert message in str(caught.value)


def test_a_control_needs_two_prompts():
    with pytest.raises(ValueError, match="needs two prompts"):
        recipes.load(Recipe(), None, ["reward.shuffle=true", "rollout.prompts=1"])


@pytest.mark.parametrize(
    "assignment",
    ["model.path=/no/where", "model.path=./nowhere", "data.path=a/b/rows.jsonl"],
)
def test_paths_that_lead_nowhere_are_named(assignment, tmp_path):
    recipe = recipes.load(Recipe(), None, [assignment])
    key, path = assignment.split("=")
    with pytest.raises(FileNotFoundError, match=f"`{key}` must lead.*'{path}'"):
        check_paths(recipe)
    check_paths(recipes.load(Recipe(), None, [f"{key}={tmp_path}"]))
    check_paths(recipes.load(Recipe(), None, [f"{key}=owner/name"]))
