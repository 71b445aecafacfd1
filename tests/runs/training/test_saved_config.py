"""A run is resumed with the recipe in its last checkpoint, whatever its config.yaml."""

import json
import shutil

import pytest

from grpojax.runs.cli.main import main
from grpojax.runs.cli.train import train
from grpojax.runs.recipe.load import dump, load
from grpojax.runs.recipe.schema import Recipe


@pytest.fixture(scope="module")
def recipe(settings):
    changes = {"checkpoint__every": 1, "run__eval_problems": 0, "log__completions": 0}
    return load(Recipe(), None, settings(**changes))


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    train(recipe, path)
    return path


def files(path) -> dict:
    found = [x for x in path.rglob("*") if x.is_file() and x.name[0] != "."]
    return {x: x.read_bytes() for x in found}


def edited(recipe) -> str:
    return dump(recipe).replace("learning_rate: 5.0e-05", "learning_rate: 0.5")


def foreign(recipe) -> str:
    del recipe
    return dump(load(Recipe(), None, ["rollout.group=6", "model.path=gsm8k-tiny"]))


def empty_mapping(recipe) -> str:
    del recipe
    return "{}\n"


@pytest.mark.parametrize(
    "text, key",
    [
        (edited, "`optimizer.learning_rate` was 5e-05 and is 0.5"),
        pytest.param(foreign, "`rollout.group` was 4 and is 6", marks=pytest.mark.slow),
        pytest.param(
            empty_mapping, "`rollout.group` was 4 and is 8", marks=pytest.mark.slow
        ),
    ],
)
def test_another_config_is_refused_and_the_right_recipe_resumes(
    recipe, run, tmp_path, capsys, text, key
):
    path = shutil.copytree(run, tmp_path / "run")
    config = path / "config.yaml"
    config.write_text(text(recipe))
    before = files(path)
    with pytest.raises(ValueError, match=key) as caught:
        train(load(Recipe(), config), path, resume=True)
    assert "as its last checkpoint records it" in str(caught.value)
    assert files(path) == before
    assert main(["train", "--out", str(path), "--resume"], {}) == 2
    said = capsys.readouterr().err
    assert key in said and "as its last checkpoint records it" in said
    assert files(path) == before
    # With the recipe of the checkpoint: what was in config.yaml is replaced.
    longer = load(recipe, None, ["run.steps=3"])
    train(longer, path, resume=True)
    assert config.read_text() == dump(longer)
    assert json.loads((path / "summary.json").read_text())["steps"] == 3


def test_an_emptied_config_is_refused_until_it_is_restored(
    recipe, run, tmp_path, capsys
):
    path = shutil.copytree(run, tmp_path / "run")
    (path / "config.yaml").write_bytes(b"")
    before = files(path)
    for other in (recipe, Recipe()):
        with pytest.raises(ValueError, match="recipe.yaml of the last checkpoint"):
            train(other, path, resume=True)
    assert main(["train", "--out", str(path), "--resume"], {}) == 2
    assert "recipe.yaml of the last checkpoint" in capsys.readouterr().err
    assert files(path) == before
    shutil.copy(path / "checkpoints" / "2" / "recipe.yaml", path / "config.yaml")
    arguments = ["train", "--out", str(path), "--resume", "--set", "run.steps=3"]
    assert main(arguments, {}) == 0
    assert json.loads((path / "summary.json").read_text())["steps"] == 3


def test_without_a_checkpoint_the_config_is_the_truth(recipe, run, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(path / "checkpoints")
    other = load(recipe, None, ["optimizer.learning_rate=0.5"])
    with pytest.raises(ValueError, match="as its config.yaml records it"):
        train(other, path, resume=True)
