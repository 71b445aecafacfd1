"""Every source and every kind of answers: two steps, an evaluation and a report."""

import csv
import json

import pytest

import grpojax
from grpojax import text
from grpojax.runs import write_report
from grpojax.runs.recipe import build, load as recipes
from grpojax.runs.recipe.schema import Recipe
from grpojax.runs.recipe.tasks import build_environments

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
KINDS = [pytest.param(x, marks=pytest.mark.slow) for x in list(ANSWERS)[2:]]
KINDS += list(ANSWERS)[:2]


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
        # Evaluations report `correct`, which an environment without answers has not.
        evaluated = {"run__eval_problems": 0} if kind == "NoAnswer" else {}
        small = [x for x in settings(**evaluated) if not x.startswith("data.")]
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("hub")
def test_a_run_of_every_kind_of_answers(recipe_of, tmp_path, kind):
    recipe = recipe_of(write_json_lines, "x.jsonl", ANSWERS[kind], kind)
    made = build.build(recipe)
    held_out = int(kind != "NoAnswer")
    sizes = f"{6 - held_out} training problems, {held_out} held out"
    assert sizes in made["config"].summary
    state = grpojax.fit(**made, out=tmp_path / "run")
    assert int(state.version) == 2
    assert write_report([tmp_path / "run"]).exists()
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert ("rewards/correct/mean" in metrics) == (kind != "NoAnswer")
    evaluations = tmp_path / "run" / "evaluations.jsonl"
    lines = evaluations.read_text().splitlines() if held_out else []
    assert len(lines) == 2 * held_out
