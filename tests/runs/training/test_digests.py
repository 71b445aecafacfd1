"""A run is resumed on its own model and data; another one may begin with its policy."""

import datetime
import json
import shutil
import types

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from grpojax.runs.checkpoint.resume_check import check_digests
from grpojax.runs.cli.main import main
from grpojax.runs.cli.train import prepare, train
from grpojax.runs.recipe.build import load_model
from grpojax.runs.recipe.load import load
from grpojax.runs.recipe.schema import Recipe
from grpojax.text.tokenizer import _template


TEMPLATE = (
    "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"
)


def rows(start):
    made = [{"question": f"{i} + 1?", "answer": f"#### {i + 1}"} for i in start]
    return "".join(json.dumps(row) + "\n" for row in made)


def on_day(patch, day):
    class Day(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2025, 3, day, tzinfo=tz)

    class Date(datetime.date):
        @classmethod
        def today(cls):
            return cls(2025, 3, day)

    fake = types.SimpleNamespace(datetime=Day, date=Date, time=datetime.time)
    patch.setattr(_template, "datetime", fake)


@pytest.fixture(scope="module")
def run(model, settings, tmp_path_factory):
    """A folder with a run of one step, its model and its data; and the recipe."""
    folder = tmp_path_factory.mktemp("runs")
    base = shutil.copytree(model, folder / "base")
    path = base / "tokenizer_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE})
    )
    (folder / "rows.jsonl").write_text(rows(range(9)))
    changes = {
        "model__path": base,
        "data__path": folder / "rows.jsonl",
        "data__chat": "true",
        "data__train_rows": "null",
        "run__eval_problems": 2,
        "run__steps": 1,
        "checkpoint__every": 1,
        "log__completions": 0,
        "algorithm__entropy_bonus": 1.0,  # So that weights move.
    }
    recipe = load(Recipe(), None, settings(**changes))
    train(recipe, folder / "run")
    return folder, recipe


def resumed(run):
    return prepare(load(run[1], None, ["run.steps=2"]), run[0] / "run", resume=True)


def test_the_same_model_and_data_are_taken_on_another_day(run, monkeypatch):
    contents = json.loads((run[0] / "run/checkpoints/1/contents.json").read_text())
    assert contents["metadata"]["today"] == datetime.date.today().isoformat()
    assert set(contents["metadata"]["digests"]) == {"model", "data", "evaluation"}
    on_day(monkeypatch, 9)
    prepared = resumed(run)
    assert prepared.restored is not None and prepared.restored.step == 1
    assert prepared.metadata == contents["metadata"]
    assert prepared.directory is not None
    prepared.directory.close()


def replace_rows(folder):
    (folder / "rows.jsonl").write_text(rows([*range(2), *range(30, 37)]))


def replace_held_out(folder):
    (folder / "rows.jsonl").write_text(rows([*range(40, 42), *range(2, 9)]))


def replace_weights(folder):
    path = folder / "base" / "model.safetensors"
    tensors = {name: x.copy() for name, x in load_file(path).items()}
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * np.float32(1.5)
    save_file(tensors, path)


def replace_template(folder):
    path = folder / "base" / "tokenizer_config.json"
    path.write_text(path.read_text().replace("%d %b", "%d of %b"))


@pytest.mark.parametrize(
    ("change", "named", "others"),
    [
        (replace_rows, ["the problems that are trained on"], ["held-out", "weights"]),
        pytest.param(
            replace_held_out,
            ["the held-out problems"],
            ["trained on", "weights"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            replace_weights,
            ["the weights that it starts from"],
            ["problems"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            replace_template,
            ["trained on", "held-out"],
            ["weights"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_others_are_refused_and_named(run, tmp_path, change, named, others):
    saved = shutil.copytree(run[0], tmp_path / "saved")
    try:
        change(run[0])
        with pytest.raises(
            ValueError, match="A run is resumed with the model"
        ) as error:
            resumed(run)
    finally:
        shutil.rmtree(run[0])
        shutil.copytree(saved, run[0])
    said = str(error.value).partition("Changed: ")[2]
    assert all(words in said for words in named)
    assert not any(words in said for words in others)


@pytest.fixture
def cities(run, tmp_path):
    """A recipe whose reward reads a column of its rows, and what writes the rows."""
    path = tmp_path / "rows.jsonl"
    records = [json.loads(line) for line in rows(range(9)).splitlines()]

    def write(number: int, **columns: object) -> None:
        for place, record in enumerate(records):
            record |= {"city": "Oslo", "unread": 0}
            if place == number:
                record |= columns
        path.write_text("".join(json.dumps(record) + "\n" for record in records))

    write(0)
    term = "tests.runs.recipe.user_parts:names_city"
    words = [f"data.path={path}", f"reward.terms=[{{name: '{term}', weight: 1}}]"]
    words += [
        "data.task=questions",
        "data.chat=true",
        "evaluations.held_out.reward=run",
    ]
    return load(run[1], None, words), write


@pytest.mark.slow
def test_digests_are_of_the_columns_that_rewards_read(cities):
    recipe, write = cities
    before = prepare(recipe).metadata["digests"]
    write(8, unread=1)
    assert prepare(recipe).metadata["digests"] == before
    write(8, city="Bergen")
    after = prepare(recipe).metadata["digests"]
    assert {name for name in before if before[name] != after[name]} == {"columns"}


@pytest.mark.slow
def test_texts_that_rewards_read_are_part_of_the_data(cities, tmp_path):
    """A column that a reward function has no parameter for may change."""
    recipe, write = cities
    train(recipe, tmp_path / "run")
    again = load(recipe, None, ["run.steps=2"])
    for number in (0, 8):  # Held out, and trained on.
        write(number, city="Bergen")
        with pytest.raises(ValueError, match="the columns of the rows that reward"):
            prepare(again, tmp_path / "run", resume=True)
        write(number, city="Oslo", unread=1)
        directory = prepare(again, tmp_path / "run", resume=True).directory
        assert directory is not None
        directory.close()


def test_checkpoints_of_older_versions_have_none():
    check_digests(None, {"model": "a"})
    check_digests({"model": "a"}, {"model": "a", "data": "b"})
    with pytest.raises(ValueError, match="a then, none now"):
        check_digests({"data": "a"}, {})


def test_a_checkpoint_is_a_model(run):
    """What a run exports is what its last checkpoint holds."""
    of = lambda path: load_model(load(run[1], None, [f"model.path={path}"]))[0]
    final = of(run[0] / "run")
    for path in (run[0] / "run/checkpoints/1", run[0] / "run/model"):
        same = [
            np.array_equal(x, y)
            for x, y in zip(
                jax.tree.leaves(final), jax.tree.leaves(of(path)), strict=True
            )
        ]
        assert all(same)
    start = of(run[0] / "base")
    assert not all(map(np.array_equal, jax.tree.leaves(final), jax.tree.leaves(start)))


def test_export_and_what_it_refuses(run, tmp_path, capsys):
    checkpoint = run[0] / "run" / "checkpoints" / "1"
    assert main(["export", str(checkpoint), str(tmp_path / "model")], {}) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'model'}\n"
    written = load_file(tmp_path / "model" / "model.safetensors")
    exported = load_file(run[0] / "run" / "model" / "model.safetensors")
    assert written.keys() == exported.keys()
    assert all(np.array_equal(written[name], exported[name]) for name in written)
    for words, said in [
        ([str(checkpoint), str(tmp_path / "model")], "holds other files"),
        ([str(checkpoint.parent / "7"), str(tmp_path / "b")], "checkpoints/7"),
        ([str(tmp_path / "nowhere"), str(tmp_path / "b")], "nowhere"),
    ]:
        assert main(["export", *words], {}) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_a_run_continues_another_and_names_it(run, tmp_path, capsys):
    checkpoint, out = run[0] / "run" / "checkpoints" / "1", tmp_path / "new"
    words = ["--set", "optimizer.learning_rate=0.001", "--set", "run.eval_problems=0"]
    words += ["--set", "run.steps=0"]
    assert (
        main(["train", "--from", str(checkpoint), "--out", str(out), *words], {}) == 0
    )
    summary = json.loads((out / "summary.json").read_text())
    assert summary["origin"] == str(checkpoint)
    assert summary["jax"] and summary["device"] == "cpu"
    written = load_file(out / "model" / "model.safetensors")
    exported = load_file(run[0] / "run" / "model" / "model.safetensors")
    assert all(np.array_equal(written[name], exported[name]) for name in written)
    recipe = load(Recipe(), out / "config.yaml")
    assert recipe.optimizer.learning_rate == 0.001
    assert recipe.rollout.group == run[1].rollout.group
    assert main(["train", "--from", str(tmp_path), "--out", str(out / "b")], {}) == 2
    assert "--from continues a run" in capsys.readouterr().err


def test_nothing_is_kept_without_a_directory(run, capsys):
    words = ["--from", str(run[0] / "run"), "--set", "run.steps=0"]
    assert main(["train", *words, "--set", "run.eval_problems=0"], {}) == 0
    said = capsys.readouterr().out
    first, last = "Without --out nothing is kept", "The trained model was not kept"
    assert said.index(first) < said.index(last)
