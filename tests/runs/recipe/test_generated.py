"""Rows of reasoning-gym, by a double of it, and by itself where it is installed."""

import importlib.machinery
import importlib.util
import json
import random
import sys
import types

import pytest

import grpojax
from envs.questions import PromptFormat, Questions
from envs.rows import load_rows
from grpojax.reward import ReasoningGym
from grpojax.runs.recipe import build, load as recipes
from grpojax.runs.recipe.schema import Recipe

from ...envs.double import ByteTokenizer


SUMS = "reasoning_gym:sums?terms=2"


@pytest.fixture
def gym(monkeypatch):
    """One task, whose answers are scored by their length if they are wrong."""
    made = types.ModuleType("reasoning_gym")
    made.__spec__ = importlib.machinery.ModuleSpec("reasoning_gym", None)

    def create_dataset(name, *, size, seed, terms=3):
        assert terms < 4, "at most 3 terms"
        return (
            {
                "question": "+".join([str(seed % 97 + i)] * terms),
                "answer": str((seed % 97 + i) * terms),
                "metadata": {
                    "source_dataset": name,
                    "pair": (i, seed),
                    "drawn": random.random(),
                },
            }
            for i in range(size)
        )

    def score(answer, entry):
        assert entry["metadata"]["pair"][0] >= 0
        return 0.25 if answer is None else float(answer == entry["answer"])

    vars(made).update(
        create_dataset=create_dataset,
        get_score_answer_fn={"sums": score}.__getitem__,
        factory=types.SimpleNamespace(DATASETS={"sums": None, "products": None}),
    )
    monkeypatch.setitem(sys.modules, "reasoning_gym", made)


@pytest.mark.usefixtures("gym")
def test_rows_are_those_of_a_seed():
    rows, _ = load_rows(SUMS + "&seed=7", count=3)
    assert [row["question"] for row in rows] == ["7+7", "8+8", "9+9"]
    assert rows[2].place.endswith("row 3") and rows[2]["metadata"]["pair"] == (2, 7)
    random.seed(0)  # From which a task may draw, too.
    assert load_rows(SUMS, count=2, seed=7).rows == rows[:2]
    test, _ = load_rows(SUMS + "&seed=7", count=3, split="test")
    assert test == load_rows(SUMS + "&seed=7", count=3, split="test").rows != rows
    env = Questions(rows, ByteTokenizer(), max_completion_length=9)
    assert env.rows["metadata"][1]["source_dataset"] == "sums"


@pytest.mark.usefixtures("gym")
@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("reasoning_gym:sum", {"count": 1}, "names one of the 2 tasks.*is 'sums'"),
        (SUMS, {}, "needs a count.*`data.train_rows`"),
        (SUMS, {"count": 1, "split": "dev"}, "`split` must be 'train' or 'test'"),
        ("reasoning_gym:sums?terms=4", {"count": 1}, "settings of its task.*at most 3"),
        ("reasoning_gym:sums?size=4", {"count": 1}, "'size'. How many rows there are"),
    ],
)
def test_what_is_no_task_is_refused(source, options, message):
    with pytest.raises(ValueError, match=message):
        load_rows(source, **options)


@pytest.mark.usefixtures("gym")
def test_the_score_is_that_of_reasoning_gym():
    rows, _ = load_rows(SUMS, count=3)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    said = ["<answer>1</answer> no,\n<answer> 0\n</answer>", "2", "<answer>3</answer>"]
    assert ReasoningGym()(said, **columns) == [1.0, 0.25, 0.0]
    whole = ReasoningGym(pattern=None)
    assert whole(["0", " 2\n", "<answer>4</answer>"], **columns) == [1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match=r"`ReasoningGym.pattern` must be a regular"):
        ReasoningGym(pattern="(")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ImportError, match=r"pip install 'grpojax\[gym\]'"):
        load_rows(SUMS, count=1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"pip install 'grpojax\[gym\]'"):
        ReasoningGym()


def recipe_of(settings, path, task):
    asked = {
        "data": {
            "task": "questions",
            "path": f"reasoning_gym:{task}",
            "prompt": "{{ question }} Write <answer>your answer</answer>.\n",
            "answer": "NoAnswer",
        },
        "reward": {"weights": {"reasoning_gym": 1.0}, "terms": ["ReasoningGym"]},
        "evaluations": {"held_out": {"reward": "run"}},
    }
    (path / "recipe.yaml").write_text(json.dumps(asked))
    kept = [x for x in settings() if not x.startswith("data.path")]
    return recipes.load(Recipe(), path / "recipe.yaml", kept)


@pytest.mark.slow
@pytest.mark.usefixtures("gym")
def test_a_recipe_trains_on_a_task(settings, tmp_path):
    recipe = recipe_of(settings, tmp_path, "sums?terms=2&seed=3")
    made = build.build(recipe)
    assert made["step"].env.rows["question"][:2] == ["3+3", "4+4"]
    grpojax.fit(**made, out=tmp_path / "run")
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    for line in lines:
        metrics = json.loads(line)["metrics"]
        assert metrics["reward"]["value"] == metrics["rewards/reasoning_gym"]["value"]
        assert 0 < metrics["reward"]["value"] <= 0.25


@pytest.mark.slow
# The packages that it needs leave files open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_task_of_the_package_makes_rows_and_scores_them():
    gym = pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    shown, scored = PromptFormat("question"), 0
    for task in gym.factory.DATASETS:
        if task == "composite":  # Which joins others, as a mixture does.
            continue
        rows, _ = load_rows(f"reasoning_gym:{task}", count=2, seed=1)
        assert rows == load_rows(f"reasoning_gym:{task}", count=2, seed=1).rows, task
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        assert all(isinstance(shown.asked(row), str) for row in rows), task
        # What it scores its own answers with, 0 where it has none to show.
        right = [f"So: <answer>{row['answer']}</answer>" for row in rows]
        own = gym.create_dataset(task, size=2, seed=1)
        wanted = [own.score_answer(str(row["answer"]).strip(), row) for row in rows]
        assert ReasoningGym()(right, **columns) == wanted, task
        scored += min(wanted) == 1
    assert scored > 80
