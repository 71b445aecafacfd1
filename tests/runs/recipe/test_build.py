import math
import sys
import types
import typing

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import addition, gsm8k
from grpojax import algorithms, reward, text, Trajectory
from grpojax.runs.recipe import build as parts, load as recipes
from grpojax.runs.recipe.schema import Algorithm, Recipe
from grpojax.types import Prompt

from .conftest import SHIPPED


def recipe(*assignments: str) -> Recipe:
    return recipes.load(Recipe(), None, assignments)


def trajectory(prompts: int, group: int) -> Trajectory:
    shape = (prompts, group, 2)
    paid = jnp.arange(prompts * group, dtype=jnp.float32).reshape(prompts, group)
    return Trajectory(
        prompt=Prompt(jnp.zeros((prompts, 3), jnp.int32), jnp.ones(prompts, jnp.int32)),
        tokens=jnp.zeros(shape, jnp.int32),
        sampled=jnp.ones(shape, bool),
        log_prob=jnp.zeros(shape),
        version=jnp.zeros(shape, jnp.int32),
        terminated=paid % 2 == 0,
        rewards={"correct": paid, "format": jnp.ones_like(paid)},
        temperature=jnp.ones(()),
    )


def test_reward_settings():
    made = trajectory(3, 2)
    total = lambda *settings: parts.build_reward(recipe(*settings))(made).total.tolist()
    assert total("reward.format=0.5") == [[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]]
    assert total("reward.truncated=zero") == [[0, 0], [2, 0], [4, 0]]
    dropped = parts.build_reward(recipe("reward.truncated=drop"))(made)
    assert dropped.keep.tolist() == [[True, False]] * 3


def test_the_control_gives_every_row_what_another_prompt_earned():
    made = trajectory(4, 2)
    plain, control = (
        parts.build_reward(recipe(f"reward.shuffle={flag}"))(made).total
        for flag in ("false", "true")
    )
    assert sorted(control.ravel().tolist()) == sorted(plain.ravel().tolist())
    for prompt in range(4):
        assert not set(control[prompt].tolist()) & set(plain[prompt].tolist())
    weighed = reward.WeightedSum({"correct": 1.0, "format": 0.0})(made)
    assert jnp.array_equal(plain, weighed.total)


def test_every_algorithm_of_the_library_has_a_name_and_keeps_its_numbers():
    named = typing.get_args(typing.get_type_hints(Algorithm)["name"])
    assert set(named) == set(parts.ALGORITHMS)
    for name, build in parts.ALGORITHMS.items():
        made = parts.build_algorithm(recipe(f"algorithm.name={name}"))
        assert eqx.tree_equal(made, build(), typematch=True)
    made = parts.build_algorithm(
        recipe("algorithm.name=dapo", "algorithm.low=0", "algorithm.high=0.5")
    )
    assert eqx.tree_equal(made, algorithms.dapo(low=0.0, high=0.5), typematch=True)


@pytest.mark.parametrize(
    ("name", "has"), [("dapo", "low, high"), ("rloo", "none"), ("cispo", "cap, floor")]
)
def test_a_number_that_an_algorithm_has_not_is_refused(name, has):
    with pytest.raises(ValueError, match=f"number of {name}, which has {has}. Receive"):
        parts.build_algorithm(recipe(f"algorithm.name={name}", "algorithm.beta=1"))


def test_schedules_count_optimizer_updates():
    settings = ["run.steps=4", "update.epochs=2", "optimizer.learning_rate=1"]

    def rates(*more: str) -> list[float]:
        """Of AdamW, whose update of a constant gradient is the learning rate."""
        optimizer = parts.build_optimizer(recipe(*settings, *more))
        weight, gradient = jnp.ones(()), jnp.asarray(0.5)
        state, seen = optimizer.init(weight), []
        for _ in range(8):
            update, state = optimizer.update(gradient, state, weight)
            seen.append(-float(update))
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


@pytest.fixture(scope="module")
def tokenizer():
    return text.load_tokenizer(SHIPPED)


def test_a_task_is_a_module_of_envs_or_says_where_it_is():
    assert parts.find_task("gsm8k") is gsm8k.environments
    assert parts.find_task("addition") is addition.environments
    assert parts.find_task("envs.addition:environments") is addition.environments
    assert parts.known_tasks() == ["addition", "gsm8k"]


@pytest.mark.parametrize(
    "task",
    ["gsm9k", "", "envs.gsm8k", "envs.gsm8k:nothing", "nowhere:f", "no.where:f"],
)
def test_an_unknown_task_is_refused(task):
    with pytest.raises(ValueError, match="must be one of addition, gsm8k, or say"):
        parts.find_task(task)


def test_what_a_task_cannot_import_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "broken_task.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        parts.find_task("broken_task:environments")


def test_a_task_of_a_stranger_is_given_what_is_promised(tokenizer, monkeypatch):
    given = {}

    def build(data, tokenizer, *, horizon, held_out):
        given.update(data=data, horizon=horizon, held_out=held_out)
        train = addition.Addition(tokenizer, max_completion_length=horizon)
        return train, None, ["mind the gap"]

    monkeypatch.setitem(sys.modules, "theirs", types.SimpleNamespace(build=build))
    asked = recipe("data.task=theirs:build", "rollout.max_new_tokens=5", "data.shots=3")
    made = parts.build_environments(asked, tokenizer)
    assert given == dict(data=asked.data, horizon=5, held_out=512)
    assert made.train.max_completion_length == 5
    assert made.held_out is None and made.notes == ["mind the gap"]
    theirs = types.SimpleNamespace(build=lambda *_, **__: (None, 3, []))
    monkeypatch.setitem(sys.modules, "theirs", theirs)
    with pytest.raises(TypeError, match="numbered problems.*Received 3"):
        parts.build_environments(asked, tokenizer)


def test_addition_takes_no_other_key(tokenizer):
    asked = recipe("data.task=addition", "data.shots=3")
    with pytest.raises(ValueError, match="Received shots: leave them out"):
        parts.build_environments(
            recipe("data.task=addition", "data.shots=3"), tokenizer
        )
    with pytest.raises(ValueError, match="asks for 33 rows. Received 32"):
        parts.build_environments(
            recipe("data.task=addition", "run.eval_problems=33"), tokenizer
        )
    asked = recipe("data.task=addition", "run.eval_problems=0")
    train, held_out, _ = parts.build_environments(asked, tokenizer)
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
    train, held_out, notes = parts.build_environments(asked, tokenizer)
    assert (train.size, held_out.size, notes) == (28, 4, [])
    assert train.max_completion_length == 7 and train.answer_format == "tag"
    ends = {tokenizer.piece(int(token)) for token in train.end_tokens}
    assert any("stamps" in piece for piece in ends)


@pytest.mark.parametrize(
    ("said", "name"),
    [("true", "layers"), ("false", "elementwise"), ("mlp", "mlp"), (None, None)],
)
def test_what_is_computed_again_has_names_and_once_had_none(said, name):
    policy, _ = parts.load_model(recipe(*[f"model.remat={said}"] * (said is not None)))
    assert policy.remat == (name or "elementwise")
    assert policy.cache_dtype == policy.compute_dtype == "float32"


@pytest.mark.parametrize(
    ("weights", "said", "kept"),
    [
        ("float32", "null", "float32"),
        ("float32", "bfloat16", "bfloat16"),
        ("bfloat16", "null", "bfloat16"),
        ("bfloat16", "float32", "float32"),
    ],
)
def test_moments_are_kept_in_the_dtype_that_is_said(weights, said, kept):
    optimizer = parts.build_optimizer(
        recipe(f"model.dtype={weights}", f"optimizer.state_dtype={said}")
    )
    weight = jnp.ones(3, weights)
    state = optimizer.init(weight)
    update, after = optimizer.update(weight, state, weight)
    assert update.dtype == weights
    for found in (state, after):
        moments = [x.dtype for x in jax.tree.leaves(found) if x.ndim > 0]
        assert moments == [kept] * 2
