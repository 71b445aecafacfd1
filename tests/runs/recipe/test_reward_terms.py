"""Reward functions in a recipe: weights in place, columns, calls, keys."""

import re
import types

import jax.numpy as jnp
import numpy as np
import pytest

from grpojax import reward, text
from grpojax.runs.evaluation.generate import Prompts
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.build import config_of
from grpojax.runs.recipe.parts.reward import build_reward, check_reward, solutions
from grpojax.runs.recipe.schema import Recipe
from grpojax.types import Prompt, Trajectory

from ..conftest import SHIPPED
from .user_parts import OnlyCorrect, Unpaid


MINE = "tests.runs.recipe.user_parts"


def recipe_of(*terms, environment=types.MappingProxyType({}), **weights):
    words = [f"reward.terms=[{', '.join(terms)}]"]
    words += [f"reward.weights.{name}={weight}" for name, weight in weights.items()]
    return recipes.load(Recipe(), None, words, environment)


def refusal(*terms, **options) -> str:
    with pytest.raises(ValueError) as caught:
        check_reward(recipe_of(*terms, **options))
    return str(caught.value)


@pytest.fixture(scope="module")
def tokenizer():
    return text.load_tokenizer(SHIPPED)


@pytest.fixture(scope="module")
def made(tokenizer):
    """Two prompts with completions of `5` and `7`."""
    env = OnlyCorrect(tokenizer)
    ids = [tokenizer.encode(x)[-1] for x in "57"]
    tokens = jnp.array([[[ids[0]], [ids[1]]]] * 2, jnp.int32)
    return Trajectory(
        Prompt(jnp.array([[ids[0]]] * 2, jnp.int32), jnp.ones(2, jnp.int32)),
        tokens,
        jnp.ones(tokens.shape, bool),
        jnp.zeros(tokens.shape),
        jnp.zeros(tokens.shape, jnp.int32),
        jnp.ones((2, 2), bool),
        {},
        jnp.ones(()),
        problems=jnp.array([3, 4], jnp.int32),
        rows=env.rows,
    )


def paid(tokenizer, made, *terms, kind=Unpaid, **weights):
    function = build_reward(
        recipe_of(*terms, **weights), kind(tokenizer), tokenizer, pytest.fail
    )
    return function(made)


LIKE = f"name: '{MINE}:like_answer'"


def test_a_weight_stands_beside_its_function(tokenizer, made):
    rewards = paid(tokenizer, made, f"{{{LIKE}, weight: 0.5}}")
    np.testing.assert_array_equal(rewards.total, [[0.5, 0]] * 2)
    two = f"{{{LIKE}, weight: 2, as: mine, scale: 3}}"
    rewards = paid(tokenizer, made, two, f"{{{LIKE}, as: other}}", other=-1)
    np.testing.assert_array_equal(rewards.total, [[5, 0]] * 2)
    assert rewards.weights["mine"] == 2 and rewards.weights["other"] == -1


def test_the_weight_of_correct_is_for_tasks_that_have_answers(tokenizer, made):
    with pytest.raises(ValueError, match=r"Received \['correct'\]"):
        paid(tokenizer, made, f"{{{LIKE}}}")  # Nothing else would be paid.
    with pytest.raises(ValueError, match=r"Received \['correct'\]"):
        paid(tokenizer, made, f"{{{LIKE}, weight: 1}}", correct=2)
    with pytest.raises(ValueError, match=r"Received \['correct'\]"):
        paid(tokenizer, made, f"{{{LIKE}, weight: 1}}", kind=OnlyCorrect)
    rewards = paid(tokenizer, made, f"{{{LIKE}, weight: 1, as: correct}}")
    np.testing.assert_array_equal(rewards.total, [[1, 0]] * 2)


def test_classes_and_those_built_in_are_called_on_the_host(tokenizer, made):
    terms = [
        f"{{name: '{MINE}:Begins', text: '5', batch_size: 1, weight: 1}}",
        "{name: ExactMatch, weight: 1}",
        "{name: Regex, pattern: '^[0-6]$', weight: 1, as: low}",
    ]
    rewards = paid(tokenizer, made, *terms)
    assert {"begins", "exact_match", "low"} <= rewards.components.keys()
    np.testing.assert_array_equal(rewards.total, [[3, 0]] * 2)
    assert not any(np.any(x) for x in rewards.errors.values())


def host_of(tokenizer, term):
    function = build_reward(recipe_of(term), Unpaid(tokenizer), tokenizer, pytest.fail)
    [host] = reward.split.host_rewards(function)
    return host


def test_how_a_function_is_called_stands_there_too(tokenizer):
    keys = "batch_size: 2, concurrency: 3, seconds: 4, retries: 5, backoff: 6"
    host = host_of(tokenizer, f"{{{LIKE}, {keys}, on_error: 0}}")
    assert host.calls == reward.Calls(2, 3, 4.0, 5, 6.0) and host.on_error == 0.0
    begins = host_of(tokenizer, f"{{name: '{MINE}:Begins', text: x, batch_size: 7}}")
    assert begins.batch_size is None and begins.function.own == 7  # Its own argument.


def test_a_column_that_is_missing_is_refused(tokenizer, made):
    with pytest.raises(ValueError, match="does not fit.*needs answers"):
        paid(tokenizer, made, f"{{name: '{MINE}:near', weight: 1}}")
    with pytest.raises(ValueError, match="needs ansver.*nearest.*is `answer`"):
        paid(tokenizer, made, "{name: ExactMatch, column: ansver, weight: 1}")


def test_solutions_are_a_column_where_there_are_no_integers(tokenizer):
    class Texts(Prompts):
        @property
        def rows(self):
            return OnlyCorrect(tokenizer).rows

    texts = Texts([[1]], tokenizer, max_completion_length=1)
    assert solutions(texts, tokenizer) == "answer"
    plain = Prompts([[1]], tokenizer, max_completion_length=1)
    with pytest.raises(ValueError, match="no column `answer`"):
        solutions(plain, tokenizer)


def test_solutions_are_the_golds_of_an_environment_without_rows(tokenizer):
    class WithoutRows(OnlyCorrect):
        @property
        def rows(self):
            return None

    env = WithoutRows(tokenizer)
    found = solutions(env, tokenizer)
    assert len(found) == env.size
    for prompt, answer in found.items():
        a, b = re.search(r"(\d) \+ (\d) =$", prompt).groups()
        assert int(answer) == int(a) + int(b)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("{name: Regex, pattern: '('}", "`reward.terms[0]` is refused. `Regex.pat"),
        ("{name: Regex, patern: x}", "`reward.terms[0].patern` must be an argument of"),
        (f"{{{LIKE}, sclae: 1}}", "the nearest is `scale`"),
        (f"{{{LIKE}, weight: x}}", "`reward.terms[0].weight` must be a finite number"),
        (f"{{{LIKE}, batch_size: 0}}", "is refused. `Calls.batch_size` must be at le"),
        (f"{{{LIKE}, seconds: 0}}", "is refused. `Calls.seconds` must be positive"),
        (
            f"{{name: '{MINE}:length', weight: 1}}",
            "`reward.terms[0].weight` is of a reward function that names its component",
        ),
        ("{name: Judge, url: x}", "`reward.terms[0]` needs the argument `model` of"),
        (
            "{name: Judge, url: x, model: m, template: t}",
            "`reward.terms[0]` is refused. `Judge.url` must be that of an endpoint",
        ),
    ],
)
def test_what_is_refused_names_its_key(term, message):
    assert message in refusal(term)


def test_a_component_has_one_weight():
    message = refusal(f"{{{LIKE}, weight: 2}}", like_answer=1)
    assert "`reward.terms[0].weight: 2` and `reward.weights.like_answer: 1`" in message
    check_reward(recipe_of(f"{{{LIKE}, weight: 2}}", like_answer=2))


JUDGE = (
    "{name: Judge, url: 'http://h/v1', model: m, template: t, weight: 1, api_key: %s}"
)


def test_a_key_is_that_of_a_variable_and_is_in_no_record(tokenizer):
    asked = recipe_of(JUDGE % "'${MY_KEY}'", environment={"MY_KEY": "sk-hidden"})
    function = build_reward(asked, Unpaid(tokenizer), tokenizer, pytest.fail)
    [host] = reward.split.host_rewards(function)
    assert host.function.api_key.value == "sk-hidden"
    config = config_of(asked)
    for written in (config.to_yaml(), repr(config.values), recipes.dump(asked)):
        assert "sk-hidden" not in written and "${MY_KEY}" in written
    # As a run's own configuration, with and without the variable.
    again = config.parse(config.to_yaml())
    assert again == config.values
    loaded = recipes.parse(Recipe(), recipes.dump(asked))
    with pytest.raises(ValueError, match=r"api_key` needs a variable.*'\$\{MY_KEY\}'"):
        check_reward(loaded)


def test_a_key_that_is_written_out_is_refused_and_not_shown():
    with pytest.raises(ValueError, match="api_key` must be a variable") as caught:
        recipe_of(JUDGE % "sk-hidden")
    assert "sk-hidden" not in str(caught.value)
