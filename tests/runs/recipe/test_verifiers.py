"""Rows and rubrics of verifiers, by a double of it, and by itself where installed."""

import asyncio
import importlib.machinery
import importlib.util
import json
import sys
import types

import pytest

import grpojax
from envs.rows import load_rows
from grpojax.reward import Verifiers
from grpojax.runs.recipe import build, load as recipes
from grpojax.runs.recipe.schema import Recipe


SUMS = "verifiers:tiny-sums?terms=3"

ENVIRONMENT = """
import datasets
import verifiers as vf

def load_environment(terms: int = 2, group: bool = False):
    def rows(start):
        questions = ["+".join([str(start + i)] * terms) for i in range(4)]
        return datasets.Dataset.from_dict({
            "question": questions,
            "answer": [str((start + i) * terms) for i in range(4)],
            "info": [{"terms": terms, "number": i} for i in range(4)],
        })

    def right(completion, answer):
        return float(completion[-1]["content"].strip() == answer)

    async def short(parser, completion, info, state):
        text = parser.parse_answer(completion)
        return float(len(text) < 4 and state["info"] == info)

    def best(completions, answers):
        return [0.0 for _ in completions]

    functions = [right, short] + ([best] if group else [])
    rubric = vf.Rubric(funcs=functions, weights=[1.0, 0.5] + [1.0] * group)
    return vf.SingleTurnEnv(
        dataset=rows(1), eval_dataset=rows(50), rubric=rubric,
        system_prompt="Add up.",
    )
"""


class Rubric:
    """The rubric of the double: half a point for a digit, and one for the answer."""

    def __init__(self, groups):
        def right(): ...
        def best(): ...

        self.functions = [right, best] if groups else [right]

    def _get_reward_funcs(self):
        return self.functions

    def _is_group_func(self, function):
        return function.__name__ == "best"

    async def score_rollout(self, state):
        (message,) = state["completion"]
        said, info = message["content"], state["info"]
        assert message["role"] == "assistant" and info["terms"] == 3
        state["reward"] = float(said == state["answer"]) + 0.5 * said.isdigit()


class Environment:
    """The environment of the double."""

    def __init__(self, terms=2, groups=False, held_out=True):
        rows = lambda start: [
            {
                "prompt": [{"role": "user", "content": "+".join([str(i)] * terms)}],
                "answer": str(i * terms),
                "info": json.dumps({"terms": terms}),
            }
            for i in range(start, start + 6)
        ]
        self.train, self.rubric = rows(1), Rubric(groups)
        self.eval_dataset, self.held_out = None, rows(50) if held_out else None

    def build_eval_dataset(self):
        self.eval_dataset = self.held_out

    def get_dataset(self):
        return self.train

    def get_eval_dataset(self):
        return self.held_out


@pytest.fixture
def verifiers(monkeypatch):
    made = types.ModuleType("verifiers")
    made.__spec__ = importlib.machinery.ModuleSpec("verifiers", None)

    def load_environment(name, **arguments):
        if name != "tiny-sums":
            raise ValueError(f"Could not import '{name}' environment.")
        return Environment(**arguments)

    vars(made).update(load_environment=load_environment, State=dict)
    made.State = lambda input: dict(input)
    monkeypatch.setitem(sys.modules, "verifiers", made)


def columns_of(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.usefixtures("verifiers")
def test_rows_are_those_of_the_environment_and_its_rubric_scores_them():
    rows, _ = load_rows(SUMS)
    assert [row["answer"] for row in rows] == ["3", "6", "9", "12", "15", "18"]
    assert rows[1].place == f"{SUMS}, train, row 2"
    held_out, _ = load_rows(SUMS, split="test", count=2)
    assert [row["answer"] for row in held_out] == ["150", "153"]
    said = ["3", "7", "nine", "12", "", "18"]
    found = asyncio.run(Verifiers()(said, **columns_of(rows)))
    assert found == [1.5, 0.5, 0.0, 1.5, 0.0, 1.5]
    chats = [[{"role": "assistant", "content": text}] for text in said]
    assert asyncio.run(Verifiers()(chats, **columns_of(rows))) == found


@pytest.mark.usefixtures("verifiers")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("verifiers:sums", "names an installed environment.*'verifiers:sums'.*import"),
        (SUMS + "&size=4", "names an installed environment.*'size'"),
        ("verifiers:tiny-sums?held_out=false", "at least one row|split"),
    ],
)
def test_what_is_no_environment_is_refused(source, message):
    split = "dev" if "held_out" in source else "train"
    with pytest.raises(ValueError, match=message):
        load_rows(source, split=split)


@pytest.mark.usefixtures("verifiers")
def test_functions_of_groups_are_refused():
    rows, _ = load_rows(SUMS + "&groups=true")
    with pytest.raises(ValueError, match="one row at a time.*'tiny-sums'.*best"):
        asyncio.run(Verifiers()(["3"], **columns_of(rows[:1])))


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "verifiers", None)
    with pytest.raises(ImportError, match=r"pip install 'grpojax\[verifiers\]'"):
        load_rows(SUMS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install 'grpojax\[verifiers\]'"):
        Verifiers()


def train(settings, path, source):
    """The evaluations of a run on an environment."""
    asked = {
        "data": {
            "task": "questions",
            "path": source,
            "prompt": "{{ prompt[-1].content }}=",
            "answer": "NoAnswer",
        },
        "reward": {"weights": {"verifiers": 1.0}, "terms": ["Verifiers"]},
        "evaluations": {"held_out": {"reward": "run"}},
    }
    (path / "recipe.yaml").write_text(json.dumps(asked))
    dropped = "data.path", "evaluations.held_out.problems", "data.train_rows"
    kept = [x for x in settings() if not x.startswith(dropped)]
    recipe = recipes.load(Recipe(), path / "recipe.yaml", kept)
    grpojax.fit(**build.build(recipe), out=path / "run")
    lines = (path / "run" / "evaluations.jsonl").read_text().splitlines()
    return [json.loads(line)["metrics"] for line in lines]


@pytest.mark.slow
@pytest.mark.usefixtures("verifiers")
def test_a_recipe_trains_on_an_environment(settings, tmp_path):
    for metrics in train(settings, tmp_path, SUMS):
        assert metrics["reward"]["value"] == metrics["rewards/verifiers"]["value"]


@pytest.mark.slow
# The packages that it needs leave files open, and warn.
@pytest.mark.filterwarnings("ignore")
def test_the_package_itself_loads_trains_and_scores(settings, tmp_path, monkeypatch):
    pytest.importorskip("verifiers", reason="verifiers is not installed")
    (tmp_path / "tiny_sums.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(tmp_path)
    rows, _ = load_rows(SUMS)
    assert [x["role"] for x in rows[0]["prompt"]] == ["system", "user"]
    found = asyncio.run(Verifiers()(["3", "long", "11", "12"], **columns_of(rows)))
    assert found == [1.5, 0.0, 0.5, 1.5]
    with pytest.raises(ValueError, match="functions of a group: best"):
        of_groups, _ = load_rows(SUMS + "&group=true", count=1)
        asyncio.run(Verifiers()(["3"], **columns_of(of_groups)))
    for metrics in train(settings, tmp_path, SUMS):
        assert metrics["reward"]["value"] == metrics["rewards/verifiers"]["value"]
