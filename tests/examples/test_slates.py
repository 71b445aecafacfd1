"""A small model learns to choose from slates, and not from exchanged answers."""

import json
from pathlib import Path

import pytest

from examples.make_game import teach
from grpojax import models, runs


RECIPE = (
    Path(__file__).resolve().parents[2] / "examples/recipes/slates/next-video-tiny.yaml"
)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The shipped model, which writes random options."""
    path = tmp_path_factory.mktemp("taught")
    model, tokenizer = teach("next_video", 800, 0, learning_rate=2e-3)
    models.save(model, path, tokenizer=tokenizer)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("permuted", [False, True])
def test_the_accuracy_rises_unless_answers_are_exchanged(taught, permuted, tmp_path):
    changes = [f"model.path={taught}", f"data.permuted={str(permuted).lower()}"]
    recipe = runs.load(runs.Recipe(), RECIPE, changes)
    runs.fit(**runs.build(recipe), out=tmp_path / "run")
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    first, *_, last = map(json.loads, lines)
    random = last["baselines"]["random"]["value"]
    assert abs(first["accuracy"] - random) < 0.08
    if permuted:
        assert last["accuracy"] < random + 0.1
    else:
        assert last["accuracy"] > random + 0.2
        assert last["metrics"]["accuracy_overall"]["value"] == last["accuracy"]
