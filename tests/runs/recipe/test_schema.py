"""The schema of a recipe: those that are shipped, its defaults, and its errors."""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from grpojax import algorithms
from grpojax.runs.cli.options import check_paths
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe, Run


ROOT = Path(__file__).resolve().parents[3]
RECIPES = ROOT / "examples" / "recipes"
OLD = ROOT / "tests" / "runs" / "recipes_v2"


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
    names = [x for x, y in vars(algorithms).items() if inspect.isfunction(y)]
    found = {
        recipes.load(Recipe(), path).algorithm.name: path.stem
        for path in (RECIPES / "algorithms").glob("*.yaml")
    }
    assert len(names) == 14 and found == {name: name for name in names}


@pytest.mark.parametrize("old", sorted(OLD.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_mean_what_they_meant(old):
    path = RECIPES / old.relative_to(OLD)
    assert recipes.load(Recipe(), path) == recipes.load(Recipe(), old)


def without_jax(*argv: str) -> str:
    """What a command line prints, in a process that must not have imported JAX."""
    program = (
        "import sys\n"
        "from grpojax.runs.cli import main as commands\n"
        "try:\n"
        f"    commands.main({list(argv)!r}, {{}})\n"
        "except SystemExit as error:\n"
        "    assert error.code == 0\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'jax', 'jaxlib', 'equinox', 'optax', 'numpy', 'rich'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_recipe_is_printed_without_jax():
    parts = "algorithm.surrogate={name: Clip, high: 0.3}"
    words = ["run.steps=0", parts, "reward.truncated=drop", "reward.format=0.5"]
    printed = without_jax(
        "train", "--print-config", *[x for word in words for x in ("--set", word)]
    )
    recipe = recipes.load(Recipe(), None, words)
    assert recipe.run == Run(steps=0)
    assert printed == recipes.dump(recipe)
    for line in ("    name: Clip", "  - drop_truncated", "    format: 0.5"):
        assert line in printed.splitlines()
    # Every key is there, with its default, in the words of today.
    keys = recipes.to_mapping(Recipe())
    assert without_jax("train", "--print-config") == recipes.dump(Recipe())
    assert {"guard"}.isdisjoint(keys) and len(keys) == len(vars(Recipe()))
    assert {"truncated", "correct", "shuffle"}.isdisjoint(keys["reward"])
    assert {"low", "beta"} & keys["algorithm"].keys() == {"beta"}


@pytest.mark.parametrize("command", ["train", "evaluate", "generate", "report"])
def test_help_needs_no_jax(command):
    assert without_jax(command, "--help").startswith(f"usage: grpojax {command}")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("run.steps=-1", "`run.steps` must be at least 0. Received -1"),
        (
            "run.max_eval_problems=0",
            "`evaluations.held_out.max_problems` must be at",
        ),
        ("rollout.group=0", "`rollout.group` must be at least 1. Received 0"),
        ("rollout.slots=0", "`rollout.slots` must be at least 1. Received 0"),
        ("rollout.temperature=0", "`rollout.temperature` must be positive"),
        ("optimizer.clip_norm=0", "`optimizer.clip_norm` must be positive"),
        ("data.train_rows=0", "`data.train_rows` must be at least 1. Received 0"),
        ("algorithm.beta=-1", "`algorithm.beta` must be at least 0. Received -1.0"),
        ("algorithm.name=1", "`algorithm.name` must be a text. Received 1"),
        ("algorithm.surrogate=3", "`algorithm.surrogate` must be the name of a part"),
        ("algorithm.surrogate={low: 1}", "must be the name of a part, or a mapping"),
        ("algorithm.penalties=KL", "`algorithm.penalties` must be a list of parts or"),
        ("reward.terms=[3]", "`reward.terms[0]` must be the name of a part"),
        ("reward.weights.correct=x", "`reward.weights.correct` must be a finite numb"),
        ("reward.weights=3", "`reward.weights` must be a mapping from names to numb"),
        ("optimizer.learning_rate=true", "must be a finite number or the name of a p"),
        ("optimizer.b1=.inf", "`optimizer.b1` must be made of finite numbers"),
        ("algorithm.low=2020-01-01", "`algorithm.low` must be made of finite numbers"),
        ("log.every=0", "`log.every` must be at least 1. Received 0"),
        ("log.completions=-1", "`log.completions` must be at least 0. Received -1"),
        ("data.train_row=3", "nearest is `data.train_rows`"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(assignment, message):
    with pytest.raises(ValueError) as caught:
        recipes.load(Recipe(), None, [assignment])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (
            ["rollout.sampler=Categorical", "rollout.temperature=0.5"],
            "has a temperature of its own. Received rollout.temperature=0.5 besides",
        ),
        (
            ["optimizer.learning_rate=constant_schedule", "optimizer.schedule=linear"],
            "is a schedule by itself. Received optimizer.schedule=linear",
        ),
        (["data.task=addition", "data.shots=3"], "not a key of the task addition"),
        (["lora.int8_base=true"], "with lora.rank=null"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused(assignments, message):
    with pytest.raises(ValueError) as caught:
        recipes.load(Recipe(), None, assignments)
    assert message in str(caught.value)


def test_no_weights_at_all_are_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("reward: {weights: {}}\n")
    with pytest.raises(ValueError, match="`reward.weights` must name a component"):
        recipes.load(Recipe(), path)


def test_variables_where_parts_and_arguments_are_expected():
    environment = {"RATE": "1e-4", "ROWS": "3", "PART": "Clip", "TEXT": "${HOME}"}
    assignments = [
        "optimizer.learning_rate=${RATE}",
        "data.train_rows=${ROWS}",
        "data.system_prompt='$${HOME} and ${TEXT}'",
        "algorithm.surrogate={name: '${PART}', low: 0.1}",
        "reward.weights.correct=${ROWS}",
    ]
    got = recipes.load(Recipe(), None, assignments, environment)
    assert got.optimizer.learning_rate == 1e-4
    assert got.data.options.train_rows == 3
    assert got.data.options.system_prompt == "${HOME} and ${HOME}"
    assert got.algorithm.surrogate == {"name": "Clip", "low": 0.1}
    assert got.reward.weights == {"correct": 3.0, "format": 0.0}


def test_a_part_without_a_name_keeps_the_one_it_has():
    words = ["algorithm.surrogate=Clip", "algorithm.surrogate.low=0.1"]
    got = recipes.load(Recipe(), None, words)
    assert got.algorithm.surrogate == {"name": "Clip", "low": 0.1}
    again = recipes.load(got, None, ["algorithm.surrogate.high=0.3"])
    assert again.algorithm.surrogate == {"name": "Clip", "low": 0.1, "high": 0.3}
    other = recipes.load(got, None, ["algorithm.surrogate={name: Cispo}"])
    assert other.algorithm.surrogate == {"name": "Cispo"}


texts = st.text(st.characters(codec="utf-8"), max_size=8)
texts |= st.sampled_from(["1e-4", "null", "no", "${A}", "$${A}", "a: b", "\x85"])
plain = st.none() | st.booleans() | st.integers() | texts
plain |= st.floats(allow_nan=False, allow_infinity=False)
keys = texts.filter(lambda x: x not in ("name", ""))
values = st.recursive(
    plain, lambda x: st.lists(x, max_size=2) | st.dictionaries(keys, x, max_size=2)
)
names = st.sampled_from(["Clip", "m:f", "null", "no", "1e-4", "1"])
parts = names | st.dictionaries(keys, values, max_size=2).flatmap(
    lambda arguments: names.map(lambda name: {"name": name, **arguments})
)
lists = st.lists(parts, max_size=2).map(tuple)
numbers = st.floats(allow_nan=False, allow_infinity=False)
free = st.dictionaries(
    st.sampled_from(["low", "arguments", "b1", "a b", "1"]),
    values.filter(lambda x: x is not None),
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(
    weights=st.dictionaries(names, numbers, min_size=1, max_size=3),
    terms=lists,
    shapings=lists,
    surrogate=st.none() | parts,
    penalties=st.none() | lists,
    rate=st.floats(0, 1) | parts,
    arguments=free,
    options=st.dictionaries(st.sampled_from(["rows", "options"]), values),
)
def test_composed_recipes_are_dumped_and_load_equal(
    tmp_path_factory,
    weights,
    terms,
    shapings,
    surrogate,
    penalties,
    rate,
    arguments,
    options,
):
    new = dataclasses.replace
    old = Recipe()
    recipe = new(
        old,
        reward=new(old.reward, weights=weights, terms=terms, shapings=shapings),
        algorithm=new(
            old.algorithm,
            surrogate=surrogate,
            penalties=penalties,
            arguments=arguments,
        ),
        optimizer=new(old.optimizer, learning_rate=rate, arguments=arguments),
        data=new(old.data, task="theirs:build", options=options),
    )
    path = tmp_path_factory.mktemp("dump") / "recipe.yaml"
    path.write_text(recipes.dump(recipe), encoding="utf-8")
    assert recipes.load(Recipe(), path) == recipe
    assert recipes.parse(Recipe(), recipes.dump(recipe)) == recipe


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
