"""The section `environment` of a recipe: what it names is checked and used."""

import json
import sys
import types

import pytest

from grpojax.host import HostEnvironment, Tools
from grpojax.runs.cli import main as commands
from grpojax.runs.recipe import build, load as recipes
from grpojax.runs.recipe.schema import Recipe
from grpojax.runs.recipe.tasks import build_environments, find_factory, find_tools
from grpojax.text import load_tokenizer

from ..conftest import SHIPPED


def add(a: int, b: int = 1) -> int:
    """The sum.

    Args:
        a: a number.
        b: another one.
    """
    return a + b


def undescribed(a):
    return a


class Asks:
    def __init__(self, word="Again"):
        self.word = word

    def step(self, messages):
        return f" {self.word}: ", 1.0, len(messages) > 2


@pytest.fixture(autouse=True)
def my_module(monkeypatch):
    module = types.ModuleType("my_env")
    names = {"add": add, "undescribed": undescribed, "Asks": Asks, "shared": Asks()}
    vars(module).update(names, number=5)
    monkeypatch.setitem(sys.modules, "my_env", module)


def recipe(*settings):
    return recipes.load(Recipe(), None, list(settings))


def test_what_is_named_is_found():
    tools = find_tools(recipe("environment.tools=[my_env:add]"))
    assert isinstance(tools, Tools) and tools.functions == {"add": add}
    assert find_tools(recipe()) is None and find_factory(recipe()) is None
    assert find_factory(recipe("environment.factory=my_env:Asks")) is Asks
    made = find_factory(recipe("environment.factory={name: my_env:Asks, word: More}"))
    assert made is not None and made().word == "More"
    shared = find_factory(recipe("environment.factory=my_env:shared"))
    assert isinstance(shared, Asks)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("tools=[my_env:nothing]", "there is no `nothing`"),
        ("tools=[my_env:undescribed]", "described in its docstring"),
        ("factory=my_env:number", "a class with a method `step`"),
        ("factory={name: my_env:Asks, words: 1}", "the nearest is `word`"),
        ("max_turns=0", "max_turns"),
        ("turns=3", "turns"),
        ("seconds=0", "seconds"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key(setting, message):
    with pytest.raises(ValueError, match=message) as error:
        build.check(recipe(f"environment.{setting}"))
    assert "environment" in str(error.value)


def test_tools_and_a_factory_exclude_each_other():
    both = "environment.tools=[my_env:add]", "environment.factory=my_env:Asks"
    with pytest.raises(ValueError, match="leave all but one"):
        recipe(*both)


def test_all_problems_are_answered_by_it():
    settings = ["data.train_rows=40", "rollout.max_new_tokens=8"]
    given = recipe(
        *settings, "environment.factory=my_env:Asks", "environment.max_turns=3"
    )
    tokenizer = load_tokenizer(SHIPPED)
    made = build_environments(given, tokenizer)
    for env in made[:2]:
        assert isinstance(env, HostEnvironment) and env.max_turns == 3 and not env.chat
    assert made.train.size == 40
    with pytest.raises(ValueError, match="a tokenizer without one"):
        build_environments(
            recipe("environment.tools=[my_env:add]", "data.chat=true"), tokenizer
        )


@pytest.mark.slow
def test_the_commands_use_it(tmp_path, settings):
    out = str(tmp_path / "run")
    given = [f"--set={x}" for x in settings(run__steps=1)]
    named = "--set=environment.factory=my_env:Asks"
    assert commands.main(["train", *given, named, "--out", out], {}) == 0
    line = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["rewards/environment/mean"] > 0
    assert commands.main(["evaluate", out, "--max-eval-samples", "2"], {}) == 0
    assert commands.main(["generate", out, "--samples", "1"], {}) == 0
    assert commands.main(["generate", out, "--prompt", "Question: 2 + 3?"], {}) == 0
