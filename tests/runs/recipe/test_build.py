import dataclasses
import inspect
import math
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import addition, gsm8k
from grpojax import algorithms, reward, text, Trajectory, update
from grpojax.runs.io.run_directory import RunDirectory
from grpojax.runs.recipe import build as parts, load as recipes, tasks
from grpojax.runs.recipe.parts.algorithm import build_algorithm
from grpojax.runs.recipe.parts.optimizer import build_optimizer
from grpojax.runs.recipe.parts.reward import build_reward
from grpojax.runs.recipe.schema import known_tasks, Recipe
from grpojax.types import Prompt

from ..conftest import SHIPPED


def recipe(*assignments: str) -> Recipe:
    return recipes.load(Recipe(), None, assignments)


def trajectory(prompts: int, group: int) -> Trajectory:
    shape = (prompts, group, 2)
    earned = jnp.arange(prompts * group, dtype=jnp.float32).reshape(prompts, group)
    return Trajectory(
        prompt=Prompt(jnp.zeros((prompts, 3), jnp.int32), jnp.ones(prompts, jnp.int32)),
        tokens=jnp.zeros(shape, jnp.int32),
        sampled=jnp.ones(shape, bool),
        log_prob=jnp.zeros(shape),
        version=jnp.zeros(shape, jnp.int32),
        terminated=earned % 2 == 0,
        rewards={"correct": earned, "format": jnp.ones_like(earned)},
        temperature=jnp.ones(()),
    )


@pytest.fixture(scope="module")
def tokenizer():
    return text.load_tokenizer(SHIPPED)


@pytest.fixture(scope="module")
def reward_of(tokenizer):
    """The reward of some settings, of which none needs a reference."""
    env = addition.Addition(tokenizer)

    def build(*settings: str):
        return build_reward(recipe(*settings), env, tokenizer, pytest.fail)

    return build


def test_reward_settings(reward_of):
    made = trajectory(3, 2)
    total = lambda *settings: reward_of(*settings)(made).total.tolist()
    assert total("reward.format=0.5") == [[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]]
    assert total("reward.truncated=zero") == [[0, 0], [2, 0], [4, 0]]
    dropped = reward_of("reward.truncated=drop")(made)
    assert dropped.keep.tolist() == [[True, False]] * 3


def test_the_control_gives_every_row_what_another_prompt_earned(reward_of):
    made = trajectory(4, 2)
    plain, control = (
        reward_of(f"reward.shuffle={flag}")(made).total for flag in ("false", "true")
    )
    assert sorted(control.ravel().tolist()) == sorted(plain.ravel().tolist())
    for prompt in range(4):
        assert not set(control[prompt].tolist()) & set(plain[prompt].tolist())
    weighed = reward.WeightedSum({"correct": 1.0, "format": 0.0})(made)
    assert jnp.array_equal(plain, weighed.total)


def test_every_algorithm_of_the_library_has_a_name_and_keeps_its_numbers():
    known = {x: y for x, y in vars(algorithms).items() if inspect.isfunction(y)}
    assert len(known) == 14
    for name, build in known.items():
        made = build_algorithm(recipe(f"algorithm.name={name}"))
        assert eqx.tree_equal(made, build(), typematch=True)
    made = build_algorithm(
        recipe("algorithm.name=dapo", "algorithm.low=0", "algorithm.high=0.5")
    )
    assert eqx.tree_equal(made, algorithms.dapo(low=0.0, high=0.5), typematch=True)


@pytest.mark.parametrize(
    ("name", "has"), [("dapo", "low, high"), ("rloo", "none"), ("grpo", "low, high")]
)
def test_a_number_that_an_algorithm_has_not_is_refused(name, has):
    with pytest.raises(ValueError, match=f"argument of {name}, which has {has}.*Rece"):
        build_algorithm(recipe(f"algorithm.name={name}", "algorithm.cap=1"))


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo", "rloo", "reinforce"])
def test_a_penalty_on_divergence_goes_with_any_algorithm(name):
    made = build_algorithm(recipe(f"algorithm.name={name}", "algorithm.beta=0.1"))
    plain = vars(algorithms)[name]()
    objective = dataclasses.replace(plain.objective, penalties=(update.KL(0.1),))
    expected = dataclasses.replace(plain, objective=objective)
    assert eqx.tree_equal(made, expected, typematch=True)
    other = "algorithm.penalties=[{name: KL, coefficient: 2, estimator: k2}]"
    words = (f"algorithm.name={name}", other)
    both = build_algorithm(recipe(*words, "algorithm.beta=0.1")).objective.penalties
    own = update.KL(2.0, update.k2)
    assert eqx.tree_equal(both, (own, update.KL(0.1)), typematch=True)
    alone = build_algorithm(recipe(*words)).objective.penalties
    assert eqx.tree_equal(alone, (own,), typematch=True)


def test_schedules_count_optimizer_updates():
    settings = ["run.steps=4", "update.epochs=2", "optimizer.learning_rate=1"]

    def rates(*more: str) -> list[float]:
        """Of AdamW, whose update of a constant gradient is the learning rate."""
        optimizer = build_optimizer(recipe(*settings, *more))
        weight, gradient = jnp.ones(()), jnp.asarray(0.5)
        state, seen = optimizer.init(weight), []
        for _ in range(8):
            change, state = optimizer.update(gradient, state, weight)
            seen.append(-float(change))
        return seen

    close = lambda expected: pytest.approx(expected, abs=1e-4)
    assert rates() == close([1.0] * 8)
    linear = rates("optimizer.schedule=linear")
    assert linear == close([1 - count / 8 for count in range(8)])
    warm = rates("optimizer.schedule=linear", "optimizer.warmup_updates=4")
    assert warm == close([0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])
    cosine = rates("optimizer.schedule=cosine")
    halves = [(1 + math.cos(math.pi * count / 8)) / 2 for count in range(8)]
    assert cosine == close(halves)
    assert np.all(np.diff(cosine) < 0)


# Tasks


def test_a_task_is_a_module_of_envs_or_says_where_it_is():
    assert tasks.find_task("gsm8k") is gsm8k.environments
    assert tasks.find_task("addition") is addition.environments
    assert tasks.find_task("envs.addition:environments") is addition.environments
    assert list(known_tasks())[:4] == ["addition", "gsm8k", "mixture", "questions"]


@pytest.mark.parametrize(
    "task",
    ["gsm9k", "", "envs.gsm8k", "envs.gsm8k:nothing", "nowhere:f", "no.where:f", ":f"],
)
def test_an_unknown_task_is_refused(task):
    words = "must be one of addition, gsm8k, mixture, questions, games.*, or a f"
    with pytest.raises(ValueError, match=words):
        tasks.find_task(task)


def test_what_a_task_cannot_import_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_task.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        tasks.find_task("broken_task:environments")


def test_a_task_of_a_user_is_given_its_options(tokenizer, monkeypatch):
    given = {}

    def build(data, tokenizer, *, horizon, held_out):
        given.update(data=data, horizon=horizon, held_out=held_out)
        train = addition.Addition(tokenizer, max_completion_length=horizon)
        return train, None, ["mind the gap"]

    monkeypatch.setitem(sys.modules, "theirs", types.SimpleNamespace(build=build))
    asked = recipe("data.task=theirs:build", "rollout.max_new_tokens=5", "data.rows=3")
    made = tasks.build_environments(asked, tokenizer)
    assert given == dict(data={"rows": 3}, horizon=5, held_out=512)
    assert made.train.max_completion_length == 5
    assert made.held_out is None and made.notes == ["mind the gap"]
    theirs = types.SimpleNamespace(build=lambda *_, **__: (None, 3, []))
    monkeypatch.setitem(sys.modules, "theirs", theirs)
    with pytest.raises(TypeError, match="numbered problems.*Received 3"):
        tasks.build_environments(asked, tokenizer)


@dataclasses.dataclass(frozen=True)
class Options:
    rows: int = 3
    rate: float = 0.5
    options: str | None = None
    words: list[str] = dataclasses.field(default_factory=list)


@pytest.mark.parametrize("annotation", [Options, "Options"])
def test_the_options_of_a_user_s_task_are_its_own_dataclass(monkeypatch, annotation):
    def build(data, tokenizer, *, horizon, held_out):
        raise NotImplementedError(data, tokenizer, horizon, held_out)

    build.__annotations__["data"] = annotation
    monkeypatch.setitem(sys.modules, "theirs", types.SimpleNamespace(build=build))
    options = lambda *words, **environment: tasks.task_options_of(
        recipes.load(
            Recipe(), None, ["data.task=theirs:build", *words], environment
        ).data
    )
    assert options() == Options()
    words = ("data.rows=${ROWS}", "data.rate=1", "data.words=[a]", "data.options='1'")
    assert options(*words, ROWS="7") == Options(7, 1.0, "1", ["a"])
    with pytest.raises(ValueError, match="`data.rows` must be an integer. Received 1."):
        options("data.rows=1.5")
    with pytest.raises(ValueError, match="`data.row` is not.*nearest is `data.rows`"):
        options("data.row=1")


def test_addition_takes_no_other_key(tokenizer):
    with pytest.raises(ValueError, match="`data.shots` is not a key of the task add"):
        recipe("data.task=addition", "data.shots=3")
    with pytest.raises(ValueError, match="asks for 33 rows. Received 32"):
        tasks.build_environments(
            recipe("data.task=addition", "run.eval_problems=33"), tokenizer
        )
    asked = recipe("data.task=addition", "run.eval_problems=0")
    train, held_out, _ = tasks.build_environments(asked, tokenizer)
    assert train.size == 65 and held_out is None


def test_gsm8k_keeps_its_settings(tokenizer):
    asked = recipe(
        "data.train_rows=30",
        "run.eval_problems=4",
        "data.shots=2",
        "data.answer_format=tag",
        "data.stop=stamps",
        "rollout.max_new_tokens=7",
    )
    train, held_out, notes = tasks.build_environments(asked, tokenizer)
    assert (train.size, held_out.size, notes) == (28, 4, [])
    assert train.max_completion_length == 7 and train.kind.find == "tag"
    assert train.stop is not None


@pytest.mark.parametrize(
    ("written", "name"),
    [("true", "layers"), ("false", "elementwise"), ("mlp", "mlp"), (None, None)],
)
def test_rematerialization_has_names_and_was_once_a_flag(written, name):
    policy, _ = parts.load_model(
        recipe(*[f"model.remat={written}"] * (written is not None))
    )
    assert policy.remat == (name or "elementwise")
    assert policy.cache_dtype == policy.compute_dtype == "float32"


@pytest.mark.parametrize(
    ("weights", "state_dtype", "kept"),
    [
        ("float32", "null", "float32"),
        ("float32", "bfloat16", "bfloat16"),
        ("bfloat16", "null", "bfloat16"),
        ("bfloat16", "float32", "float32"),
    ],
)
def test_moments_have_the_dtype_of_the_recipe(weights, state_dtype, kept):
    optimizer = build_optimizer(
        recipe(f"model.dtype={weights}", f"optimizer.state_dtype={state_dtype}")
    )
    weight = jnp.ones(3, weights)
    state = optimizer.init(weight)
    change, after = optimizer.update(weight, state, weight)
    assert change.dtype == weights
    for found in (state, after):
        moments = [x.dtype for x in jax.tree.leaves(found) if x.ndim > 0]
        assert moments == [kept] * 2


@pytest.mark.parametrize("damage", ["swap", "delete"])
def test_a_model_that_a_run_did_not_write_is_not_loaded(tmp_path, damage):
    with RunDirectory(tmp_path / "run") as directory:
        directory.start("", {})
        config = directory.path / "model" / "config.json"
        config.parent.mkdir()
        config.write_text("{}")
        directory.update({}, complete=True)
    config.unlink()
    if damage == "swap":
        config.write_text("[]")
    named = recipe(f"model.path={directory.path}")
    with pytest.raises(ValueError, match="model/config.json does not match its check"):
        parts.load_model(named)
