"""Runs of an older version are resumed: without learning rates, by an older recipe."""

import json
import shutil

import orbax.checkpoint as ocp
import pytest
import yaml

from grpojax.runs.checkpoint import manifest
from grpojax.runs.cli.main import main
from grpojax.runs.cli.train import train
from grpojax.runs.recipe.load import dump, load, to_mapping
from grpojax.runs.recipe.schema import Recipe


def lines(path) -> list[dict]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        del record["time"], record["step_time"]
    return records


def older_recipe(recipe: Recipe) -> str:
    """A recipe with the keys that it had before some were renamed or added."""
    old = to_mapping(recipe)
    weights = old["reward"]["weights"]
    old["reward"] = {**weights, "truncated": "drop", "shuffle": False}
    names = ("low", "high", "beta", "cap", "floor", "positive", "negative")
    old["algorithm"] = {"name": "grpo", **dict.fromkeys(names)}
    old["update"]["train_prompts"] = old["rollout"].pop("train_prompts")
    old["guard"] = old.pop("health")
    del (
        old["curriculum"],
        old["run"]["validate"],
        old["rollout"]["sampler"],
        old["optimizer"]["name"],
    )
    return yaml.safe_dump(old, sort_keys=False)


def make_older(path, config: str) -> None:
    """Makes the last checkpoint what an older version would have written."""
    (path / "config.yaml").write_text(config)
    saved = path / "checkpoints" / "2"
    (saved / "recipe.yaml").write_text(config)
    contents = json.loads((saved / "contents.json").read_text())
    new = [x for x in contents["arrays"] if x.endswith(("/learning_rate", "/updates"))]
    assert len(new) == 2
    for name in new:
        del contents["arrays"][name]
    (saved / "contents.json").write_text(json.dumps(contents))
    populates = pytest.warns(UserWarning, match="sharding info from sharding file")
    with ocp.PyTreeCheckpointer() as orbax, populates:
        arrays = orbax.restore((saved / "state").absolute())
    shutil.rmtree(saved / "state")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=False)) as orbax:
        kept = {name: x for name, x in arrays.items() if name not in new}
        orbax.save((saved / "state").absolute(), args=ocp.args.PyTreeSave(kept))
    (saved / "manifest.json").unlink()
    manifest.write(saved)


@pytest.fixture(scope="module")
def recipe(settings):
    changes = {
        "checkpoint__every": 2,
        "run__eval_problems": 0,
        "optimizer__warmup_updates": 5,
        "reward__shapings": "[drop_truncated]",
    }
    return load(Recipe(), None, settings(**changes))


def test_a_run_of_an_older_version_resumes(recipe, tmp_path):
    longer = load(recipe, None, ["run.steps=4"])
    train(longer, tmp_path / "full")
    path = tmp_path / "run"
    train(recipe, path)
    config = older_recipe(recipe)
    assert "guard:" in config and "low: null" in config and "health" not in config
    make_older(path, config)
    assert load(Recipe(), path / "config.yaml") == recipe
    words = ["train", "--out", str(path), "--resume", "--set", "run.steps=4"]
    assert main(words, {}) == 0
    metrics = lines(path / "metrics.jsonl")
    assert metrics == lines(tmp_path / "full" / "metrics.jsonl")
    # It rises: the number of updates was filled in from the optimizer's.
    rates = [record["learning_rate"] for record in metrics]
    assert rates == sorted(rates) and len(set(rates)) == 4
    assert (path / "config.yaml").read_text() == dump(longer)
    models = [x / "model" / "model.safetensors" for x in (path, tmp_path / "full")]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_another_recipe_than_the_older_one_is_refused(recipe, tmp_path):
    path = tmp_path / "run"
    train(recipe, path)
    make_older(path, older_recipe(recipe))
    other = load(recipe, None, ["reward.shapings=[zero_truncated]"])
    with pytest.raises(ValueError, match=r"`reward.shapings` was \['drop_truncated'\]"):
        train(other, path, resume=True)
