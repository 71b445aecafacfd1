"""Runs with `run.validate: true`: what is wrong ends them, with the step and stage."""

import json

import pytest

from grpojax import ValidationError
from grpojax.runs.cli.train import train
from grpojax.runs.recipe.load import load
from grpojax.runs.recipe.schema import Recipe

from ...helpers import mostly_slow


HERE = "tests.runs.training.faults"


def metrics(path) -> list[dict]:
    lines = (path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        del record["time"], record["step_time"]
    return records


@pytest.fixture(scope="module")
def recipe(settings):
    def build(*changes: str, **others) -> Recipe:
        small = settings(run__eval_problems=0, run__validate="true", **others)
        return load(Recipe(), None, [*small, *changes])

    return build


@pytest.fixture(scope="module")
def healthy(recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "healthy"
    train(recipe("run.validate=false"), path)
    return metrics(path)


def fails(recipe, path, message: str) -> dict:
    """The summary of a run that fails with a message."""
    with pytest.raises(ValidationError, match=f"^{message}") as caught:
        train(recipe, path)
    assert "\n" not in str(caught.value)
    return json.loads((path / "summary.json").read_text())


@pytest.mark.slow
def test_a_healthy_run_has_the_same_metrics(recipe, healthy, tmp_path):
    train(recipe(), tmp_path / "run")
    assert metrics(tmp_path / "run") == healthy and len(healthy) == 2


@pytest.mark.parametrize("every", mostly_slow([1, 3], [3]))
def test_a_reward_that_becomes_nan(recipe, healthy, tmp_path, every):
    faulty = recipe(f"reward.shapings=['{HERE}:late_nan']", log__every=every)
    message = "step 2, stage 'rewarded': the total is finite where it is valid"
    summary = fails(faulty, tmp_path / "run", message)
    assert (summary["status"], summary["complete"]) == ("failed", False)
    assert metrics(tmp_path / "run") == healthy[:1]
    events = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    assert "step 2, stage 'rewarded'" in json.loads(events[-1])["message"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change, message",
    [
        (
            f"data.task={HERE}:infinite_task",
            "stage 'rollout': reward 'correct' is finite",
        ),
        (
            f"data.task={HERE}:nan_task",
            "stage 'rollout': a reward is a number in every row",
        ),
        (
            f"rollout.sampler={HERE}:PositiveLogProb",
            "stage 'rollout': `log_prob` is finite and at most 0",
        ),
        (
            f"algorithm.weight={HERE}:negative_weight",
            "stage 'train_ready': a weight is finite and at least 0",
        ),
    ],
)
def test_a_part_with_a_fault(recipe, tmp_path, change, message):
    summary = fails(recipe(change), tmp_path / "run", f"step 1, {message}")
    assert (summary["status"], summary["steps"]) == ("failed", 0)
