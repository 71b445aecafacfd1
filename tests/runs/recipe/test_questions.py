"""Every source and every kind of answers: two steps, an evaluation and a report."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grpojax
from grpojax import text
from grpojax.runs import write_report
from grpojax.runs.recipe import build, load as recipes
from grpojax.runs.recipe.schema import Recipe
from grpojax.runs.recipe.tasks import build_environments
from grpojax.types import Trajectory

from ...helpers import mostly_slow
from ..conftest import SHIPPED


def rows_of(answer):
    """Twelve rows and one of them again; `answer` makes an answer of a number."""
    rows = [
        {"text": f"{n} + 1?", "label": answer(n + 1), "odd": n % 2} for n in range(12)
    ]
    return [*rows, rows[3]]


def is_odd(row):
    return int(row["odd"]) == 1


def brief(completions, **_):
    return [float(len(text) < 9) for text in completions]


def write_json_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_json(path, rows):
    path.write_text(json.dumps({"version": 1, "rows": rows}))


def write_csv(path, rows):
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path, rows):
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_folder(path, rows):
    path.mkdir()
    write_json_lines(path / "train.jsonl", rows)
    write_json_lines(path / "dev.jsonl", rows[:2])


def save(path, rows):
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(str(path))


def save_splits(path, rows):
    import datasets

    parts = {"train": rows, "dev": rows[:2]}
    parts = {name: datasets.Dataset.from_list(x) for name, x in parts.items()}
    datasets.DatasetDict(parts).save_to_disk(str(path))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on which the rows are `org/rows`."""
    import datasets

    def load_dataset(source, name, *, split, revision):
        assert (source, name, revision) == ("org/rows", "hard", "v2")
        rows = datasets.Dataset.from_list(rows_of(str))
        return {"train": rows, "dev": rows.select(range(2))}[split]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)


DEV = {"eval_split": "dev"}
ON_HUB = {"configuration": "hard", "revision": "v2", **DEV}
SOURCES = [
    (write_json_lines, "x.jsonl", {}),
    (write_json, "x.json", {}),
    (write_csv, "x.csv", {}),
    (write_csv, "x.tsv", {}),
    (write_parquet, "x.parquet", {}),
    (save, "x", {}),
    (write_folder, "x", DEV),
    (save_splits, "x", DEV),
    (lambda *_: None, "org/rows", ON_HUB),
]
ANSWERS = {
    "Integer": int,
    "NoAnswer": int,
    "Decimal": lambda n: n + 0.5,
    "Choice": lambda n: "ABCD"[n % 4],
    "Text": "{} pens".format,
    "OneOf": lambda n: [n, n + 1],
}


@pytest.fixture
def recipe_of(tmp_path, settings):
    """A recipe that reads a source."""

    def load(write, source, answer, kind, **more):
        write(tmp_path / source, rows_of(answer))
        columns = {"question": "text", "answer": "label"}
        data = {
            "task": "questions",
            "path": source,
            "columns": columns if kind != "NoAnswer" else {"question": "text"},
            "prompt": "Question: {{ question }}\nAnswer:",
            "answer": {"name": "OneOf", "kind": "Integer"} if kind == "OneOf" else kind,
            "filter": f"{__name__}:is_odd",
            "duplicates": "skip",
            **more,
        }
        weights = {"brief": 1.0, "correct": float(kind != "NoAnswer")}
        changes = {
            "data": data,
            "reward": {"weights": weights, "terms": [f"{__name__}:brief"]},
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(changes))
        # An environment without answers is judged by the rewards of the run.
        small = [x for x in settings() if not x.startswith("data.")]
        small += ["evaluations.held_out.reward=run"] * (kind == "NoAnswer")
        return recipes.load(Recipe(), tmp_path / "recipe.yaml", small)

    return load


@pytest.fixture(scope="module")
def tokenizer():
    return text.load_tokenizer(SHIPPED)


@pytest.mark.parametrize(("write", "source", "more"), SOURCES)
@pytest.mark.usefixtures("hub")
def test_rows_of_every_source_are_counted(recipe_of, tokenizer, write, source, more):
    recipe = recipe_of(write, source, str, "Integer", **more)
    train, held_out, notes = build_environments(recipe, tokenizer)
    # Of thirteen rows seven have an odd number, and one of them is there twice. A tenth
    # is held out, or the one in the other split.
    assert (train.size, held_out.size) == (5, 1)
    assert notes == [
        f"{6 + bool(more)} rows rejected by {__name__}:is_odd left out",
        "1 row with the prompt of an earlier row left out",
        *["1 row with a prompt that is held out left out"] * bool(more),
    ]
    for env in (train, held_out):
        answers = [int(label) for label in env.rows["label"]]
        assert env.answers.tolist() == answers
        assert [int(odd) for odd in env.rows["odd"]] == [1] * env.size


@pytest.mark.parametrize("kind", mostly_slow(ANSWERS, ["NoAnswer"]))
@pytest.mark.usefixtures("hub")
def test_a_run_of_every_kind_of_answers(recipe_of, tmp_path, kind):
    recipe = recipe_of(write_json_lines, "x.jsonl", ANSWERS[kind], kind)
    made = build.build(recipe)
    assert "5 training problems, 1 held out" in made["config"].summary
    state = grpojax.fit(**made, out=tmp_path / "run")
    assert int(state.version) == 2
    assert write_report([tmp_path / "run"]).exists()
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert ("rewards/correct/mean" in metrics) == (kind != "NoAnswer")
    evaluations = tmp_path / "run" / "evaluations.jsonl"
    records = [json.loads(line) for line in evaluations.read_text().splitlines()]
    assert len(records) == 2
    for record in records:
        assert ("accuracy" in record) == (kind != "NoAnswer")
        assert ("rewards/brief" in record["metrics"]) == (kind == "NoAnswer")


MATH = [
    ("What is $1/2 + 1/4$?", r"We add: $\frac{2}{4}+\frac14=\boxed{\frac{3}{4}}$."),
    ("Factor $x^2-1$.", r"A difference of squares, so $\boxed{(x-1)(x+1)}$."),
    ("Solve $2x=6$.", r"Halving, $x=\boxed{3}$."),
    ("Which $x$ have $|x|<1$?", r"These are $\boxed{(-1,1)}$."),
]


def test_mathematics_is_verified_against_the_boxed_answer(settings, tmp_path):
    """Rows as those of MATH, from the file to the report."""
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    rows = [{"problem": x, "solution": y, "level": "Level 1"} for x, y in MATH]
    write_json_lines(tmp_path / "math.jsonl", rows)
    recipe = {
        "data": {
            "task": "questions",
            "path": str(tmp_path / "math.jsonl"),
            "prompt": "{{ problem }}",
            "answer": "NoAnswer",
        },
        "reward": {
            "weights": {"math_verify": 1.0},
            "terms": [{"name": "math_verify", "solutions": "solution", "seconds": 99}],
        },
        "evaluations": {"held_out": {"reward": "run", "success": "math_verify"}},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    small = [x for x in settings(run__steps=1) if not x.startswith("data.")]
    asked = recipes.load(Recipe(), tmp_path / "recipe.yaml", small)
    made = build.build(asked)
    env, tokenizer = made["step"].env, made["logging"].tokenizer
    assert env.rows["problem"] == [x["problem"] for x in rows[1:]]
    said = [
        [r"\boxed{(x+1)(x-1)}", r"It is $x^2$."],
        ["So x = 3.", "4"],
        ["", r"So $\boxed{(-1, 1)}$."],
    ]
    tokens = [[tokenizer.encode(text) for text in group] for group in said]
    time = max(len(row) for group in tokens for row in group)
    lengths = np.array([[len(row) for row in group] for group in tokens])
    sampled = np.arange(time) < lengths[..., None]
    padded = [[row + [0] * (time - len(row)) for row in group] for group in tokens]
    _, prompts = jax.vmap(env.problem)(jnp.arange(3))
    rewards = made["step"].reward(
        Trajectory(
            prompts,
            jnp.array(padded, jnp.int32),
            jnp.asarray(sampled),
            jnp.zeros(sampled.shape),
            jnp.zeros(sampled.shape, jnp.int32),
            jnp.ones((3, 2), bool),
            {},
            jnp.ones(()),
            problems=jnp.arange(3, dtype=jnp.int32),
            rows=env.rows,
        )
    )
    assert rewards.total.tolist() == [[1, 0], [1, 0], [0, 1]]
    grpojax.fit(**made, out=tmp_path / "run")
    line = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()[-1]
    record = json.loads(line)
    assert record["accuracy"] == record["metrics"]["rewards/math_verify"]["value"]
    assert "held out" in write_report([tmp_path / "run"]).read_text()
