"""Recipes of older versions load, and mean what they meant."""

import functools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from envs.addition import Addition
from grpojax import algorithms, reward, text
from grpojax.rollout import Categorical, RolloutConfig
from grpojax.runs.recipe import build, load as recipes, yaml_format
from grpojax.runs.recipe.parts import shapings
from grpojax.runs.recipe.parts.algorithm import build_algorithm
from grpojax.runs.recipe.parts.evaluation_section import Settings
from grpojax.runs.recipe.parts.optimizer import build_optimizer
from grpojax.runs.recipe.parts.reward import build_reward
from grpojax.runs.recipe.schema import Recipe
from grpojax.update import stochastic_rounding, UpdateConfig

from ..conftest import SHIPPED


# Never edited: somebody has them. `recipes_v2` are those of commit 2ddf331.
FOLDER = Path(__file__).parents[1]
OLD = sorted([*FOLDER.glob("recipes_v1/*.yaml"), *FOLDER.rglob("recipes_v2/**/*.yaml")])
TINY = FOLDER / "recipes_v2" / "gsm8k-tiny.yaml"


def read(path: Path) -> dict:
    values = yaml_format.read(path.read_text(), str(path))
    assert isinstance(values, dict)
    return values


def spelled_out(values: dict) -> dict:
    """All keys that there were, those that a recipe leaves out at their defaults."""
    defaults = read(TINY)
    assert values.keys() <= defaults.keys()
    for section, keys in values.items():
        assert keys.keys() <= defaults[section].keys()
    return {name: x | values.get(name, {}) for name, x in defaults.items()}


def optimizer_of(was: dict) -> optax.GradientTransformation:
    settings, rate = was["optimizer"], was["optimizer"]["learning_rate"]
    updates = was["run"]["steps"] * was["update"]["epochs"]
    updates, warmup = updates * was["update"]["minibatches"], settings["warmup_updates"]
    decay = max(updates - warmup, 1)
    schedule = {
        "constant": optax.constant_schedule(rate),
        "linear": optax.linear_schedule(rate, 0.0, decay),
        "cosine": optax.cosine_decay_schedule(rate, decay),
    }[settings["schedule"]]
    if warmup > 0:
        rising = optax.linear_schedule(0.0, rate, warmup)
        schedule = optax.join_schedules([rising, schedule], [warmup])
    optimizer = optax.adamw(schedule, weight_decay=settings["weight_decay"])
    if settings["clip_norm"] is not None:
        clip = optax.clip_by_global_norm(settings["clip_norm"])
        optimizer = optax.chain(clip, optimizer)
    state_dtype = settings["state_dtype"] or was["model"]["dtype"]
    if "bfloat16" in (state_dtype, was["model"]["dtype"]):
        optimizer = stochastic_rounding(optimizer, state_dtype=state_dtype)
    return optimizer


def updates_of(optimizer: optax.GradientTransformation, dtype: str) -> list:
    """Three updates of a small tree."""
    weights = {"a": jnp.linspace(-1, 1, 6, dtype=dtype), "b": jnp.ones(2, dtype)}
    state, found = optimizer.init(weights), []
    for scale in (1.0, -0.5, 20.0):
        gradient = jax.tree.map(lambda x, scale=scale: x * scale + 0.1, weights)
        update, state = optimizer.update(gradient, state, weights)
        weights = optax.apply_updates(weights, update)
        found += jax.tree.leaves(update)
    return found


TRUNCATED = {
    "keep": (),
    "zero": (reward.zero_truncated,),
    "drop": (reward.drop_truncated,),
}


def reward_of(was: dict) -> reward.RewardFn:
    settings = was["reward"]
    weights = {name: float(settings[name]) for name in ("correct", "format")}
    changes = TRUNCATED[settings["truncated"]]
    changes += (shapings.shuffled,) * settings["shuffle"]
    return reward.Chain(reward.WeightedSum(weights), *changes)


@functools.cache
def task() -> tuple[Addition, text.AbstractTokenizer]:
    tokenizer = text.load_tokenizer(SHIPPED)
    return Addition(tokenizer), tokenizer


def built_reward(recipe: Recipe) -> reward.RewardFn:
    return build_reward(recipe, *task(), lambda: pytest.fail("no reference")).function


def assert_means(recipe: Recipe, was: dict) -> None:
    """Compares a recipe with the meaning that all of the old keys had."""
    numbers = dict(was["algorithm"])
    function = vars(algorithms)[numbers.pop("name")]
    expected = function(**{x: float(y) for x, y in numbers.items() if y is not None})
    assert eqx.tree_equal(build_algorithm(recipe), expected, typematch=True)
    assert eqx.tree_equal(built_reward(recipe), reward_of(was), typematch=True)
    dtype = was["model"]["dtype"]
    found = updates_of(build_optimizer(recipe), dtype)
    for one, other in zip(found, updates_of(optimizer_of(was), dtype), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    sizes, updating = was["rollout"], dict(was["update"])
    assert eqx.tree_equal(
        build.build_rollout(recipe),
        RolloutConfig(
            sizes["prompts"],
            sizes["group"],
            train_prompts=updating.pop("train_prompts"),
            slots=sizes["slots"],
            sampler=Categorical(float(sizes["temperature"])),
        ),
        typematch=True,
    )
    # Then no recipe had an objective for which log-probs are recomputed by default.
    assert updating["recompute"] is False
    updating["recompute"] = None
    assert UpdateConfig(**vars(recipe.update)) == UpdateConfig(**updating)
    assert recipe.rollout.max_new_tokens == sizes["max_new_tokens"]
    remat = {False: "elementwise", True: "layers"}
    assert remat.get(recipe.model.remat, recipe.model.remat) == remat.get(
        was["model"]["remat"], was["model"]["remat"]
    )
    assert vars(recipe.health).items() >= was["guard"].items()
    data = {"task": recipe.data.task, **vars(recipe.data.options)}
    assert data == {key: was["data"][key] for key in data}
    lora = dict(was["lora"])
    lora["base_bits"] = 8 if lora.pop("int8_base") else None
    assert vars(recipe.lora).items() >= lora.items()
    same = ("mesh", "distributed", "log", "checkpoint", "tracking")
    for section in same:
        now = vars(getattr(recipe, section))
        assert {key: now[key] for key in was[section]} == was[section]
    evaluations = {
        "eval_problems": "problems",
        "eval_samples": "samples",
        "eval_temperature": "temperature",
        "max_eval_problems": "max_problems",
    }
    settings = recipe.evaluations.settings["held_out"]
    for key, value in was["run"].items():
        now = vars(settings if key in evaluations else recipe.run)
        assert now[evaluations.get(key, key)] == value
    given = dict.fromkeys(evaluations.values()) | {"split": "held_out"}
    assert settings == Settings(**{key: vars(settings)[key] for key in given})
    for key in ("path", "dtype", "compute_dtype", "cache_dtype"):
        assert vars(recipe.model)[key] == was["model"][key]


@pytest.mark.parametrize("path", OLD, ids=lambda x: f"{x.parent.name}-{x.stem}")
def test_recipes_mean_what_they_meant(path):
    recipe = recipes.load(Recipe(), path)
    assert_means(recipe, spelled_out(read(path)))
    build.check(recipe)


def test_there_are_as_many_as_there_were():
    assert len(OLD) == 5 + 24
    for path in FOLDER.glob("recipes_v1/*.yaml"):
        was = read(path)
        assert len(was) == 8 and sum(map(len, was.values())) == 48
    was = read(TINY)
    assert len(was) == 15 and sum(map(len, was.values())) == 77


@pytest.mark.parametrize(
    "assignments",
    [
        ["reward.truncated=drop", "reward.shuffle=true", "reward.format=0.5"],
        ["reward.truncated=zero", "reward.correct=2"],
        ["guard.window=3", "guard.entropy=null"],
        ["update.train_prompts=8", "update.minibatches=2"],
        ["algorithm.name=cispo", "algorithm.cap=3", "algorithm.floor=0"],
        ["algorithm.name=sapo", "algorithm.positive=2", "algorithm.negative=2.5"],
        ["algorithm.low=0", "algorithm.high=1", "algorithm.beta=0"],
        ["optimizer.schedule=cosine", "optimizer.clip_norm=null"],
        ["optimizer.state_dtype=bfloat16", "optimizer.weight_decay=0.1"],
        ["rollout.temperature=0.7", "model.remat=true", "data.shots=2"],
        ["run.eval_problems=null", "run.eval_samples=4", "run.eval_temperature=0"],
        ["run.max_eval_problems=7"],
    ],
    ids=lambda x: x[0],
)
@pytest.mark.parametrize("path", [TINY, None], ids=["file", "defaults"])
def test_old_keys_of_the_command_line_mean_what_they_meant(assignments, path):
    was = spelled_out({})
    for assignment in assignments:
        key, _, text = assignment.partition("=")
        section, key = key.split(".")
        was[section][key] = yaml_format.read(text, "")
    recipe = recipes.load(Recipe(), path, assignments)
    assert_means(recipe, was)


def shaped(tmp_path, text: str, *assignments: str, **environment: str) -> tuple:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"reward: {text}\n")
    return recipes.load(Recipe(), path, assignments, environment).reward.shapings


def test_old_keys_override_new_ones_and_the_other_way_round(tmp_path):
    find = lambda *words, **environment: list(shaped(tmp_path, *words, **environment))
    clip = {"name": "ClipTotal", "low": 0, "high": 1}
    new = "{shapings: [drop_truncated, {name: ClipTotal, low: 0, high: 1}, shuffled]}"
    assert find(new) == ["drop_truncated", clip, "shuffled"]
    assert find(new, "reward.truncated=keep") == [clip, "shuffled"]
    assert find(new, "reward.truncated=zero") == ["zero_truncated", clip, "shuffled"]
    assert find(new, "reward.shuffle=false") == ["drop_truncated", clip]
    old = "{truncated: drop, shuffle: true}"
    assert find(old) == ["drop_truncated", "shuffled"]
    assert find(old, "reward.shapings=[]") == []
    assert find(old, "reward.shapings=[zero_truncated]") == ["zero_truncated"]
    both = ("reward.shapings=[]", "reward.truncated=zero")
    assert find(old, *both) == ["zero_truncated"]
    assert find(old, *reversed(both)) == []
    assert find("{truncated: '${T}'}", T="drop") == ["drop_truncated"]
    # In one file the order of the keys does not matter.
    for keys in (
        "{shapings: [shuffled], truncated: drop}",
        "{truncated: drop, shapings: [shuffled]}",
    ):
        assert find(keys) == ["drop_truncated", "shuffled"]


def test_old_weights_and_new_ones(tmp_path):
    path = tmp_path / "recipe.yaml"

    def weights(text: str, *assignments: str) -> dict:
        path.write_text(f"reward: {text}\n")
        return dict(recipes.load(Recipe(), path, assignments).reward.weights)

    new = "{weights: {correct: 1, brief: 0.2}}"
    assert weights(new) == {"correct": 1, "brief": 0.2}
    assert weights(new, "reward.format=1") == {"correct": 1, "brief": 0.2, "format": 1}
    assert weights(new, "reward.weights.brief=0") == {"correct": 1, "brief": 0}
    assert weights("{correct: 2}") == {"correct": 2, "format": 0}
    old = weights("{correct: 2}", "reward.weights.brief=1")
    assert old == {"correct": 2, "format": 0, "brief": 1}
    for keys in ("correct: 2, weights: {a: 1}", "weights: {a: 1}, correct: 2"):
        assert weights(f"{{{keys}}}") == {"a": 1, "correct": 2}


def test_new_keys_change_old_recipes():
    path = FOLDER / "recipes_v2" / "algorithms" / "dapo.yaml"
    recipe = recipes.load(
        Recipe(), path, ["rollout.train_prompts=4", "health.window=2"]
    )
    assert recipe.rollout.train_prompts == 4 and recipe.health.window == 2
    changes = ["algorithm.surrogate={name: Cispo, cap: 3}", "algorithm.surrogate.cap=4"]
    made = build_algorithm(recipes.load(Recipe(), path, changes))
    expected = algorithms.cispo(cap=4.0)
    assert eqx.tree_equal(
        made.objective.surrogate, expected.objective.surrogate, typematch=True
    )
    assert made.select is algorithms.dapo().select


def test_an_old_run_is_resumed_by_its_own_configuration_and_by_a_recipe_of_today():
    """Its `config.yaml` spells everything out, in the keys of its time."""
    old, today = TINY.read_text(), Recipe()
    values = build.config_of(today).parse(old)
    assert values == build.config_of(today).values
    assert build.config_of(recipes.load(today, TINY)).values == values


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("reward.truncated=cut", "`reward.truncated` must be one of 'keep', 'zero', "),
        ("reward.shuffle=1", "`reward.shuffle` must be true or false. Received 1"),
        ("reward.correct=x", "`reward.weights.correct` must be a finite number."),
        ("guard.windw=1", "The nearest is `health.window`"),
        ("guard=3", "`health` is a section"),
        ("run.eval_samples=0", "`evaluations.held_out.samples` must be at least 1."),
    ],
)
def test_wrong_values_of_old_keys_are_refused(assignment, message):
    with pytest.raises(ValueError) as caught:
        recipes.load(Recipe(), None, [assignment])
    assert message in str(caught.value)
