"""A step of a run is taken again to the last bit, and taken apart."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time

import jax.random as jr
import numpy as np
import optax
import pytest

from grpojax import (
    algorithms,
    fit,
    reward,
    RolloutConfig,
    runs,
    TrainState,
    TrainStep,
    UpdateConfig,
)
from grpojax.runs.cli import main as commands, train as training
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe
from grpojax.runs.replay.agreement import Agreement
from grpojax.runs.replay.page import page
from grpojax.runs.replay.records import row_records
from grpojax.runs.reports import write_report

from ...helpers import count_env
from ...update.doubles import Bigram


@pytest.fixture(scope="module")
def assignments(settings):
    defaults = {
        "run__eval_problems": 0,
        "run__steps": 4,
        "checkpoint__every": 2,
        "optimizer__learning_rate": 0.01,
        "algorithm__low": 0.01,
        "algorithm__high": 0.01,
        "update__epochs": 2,
        "reward__terms": '["tests.runs.replay.parts:high"]',
        "reward__weights": "{correct: 1.0, high: 1.0}",
    }

    def build(**changes) -> list[str]:
        return settings(**defaults | changes)

    return build


@pytest.fixture(scope="module")
def run(assignments, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    training.train(recipes.load(Recipe(), None, assignments()), path)
    return path


def metrics_of(run, step: int) -> dict:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return next(x for x in map(json.loads, lines) if x["step"] == step)


def files_of(run) -> dict:
    found = {x: x.read_bytes() for x in run.rglob("*") if x.is_file()}
    return {x: y for x, y in found.items() if "replays" not in x.parts}


def values() -> tuple[TrainState, TrainStep]:
    """A run without a recipe, whose programs compile in no time."""
    optimizer = optax.adam(0.05)
    step = TrainStep(
        count_env(ends=(1, 2), vocab_size=10),
        optimizer,
        algorithms.grpo(low=0.01, high=0.01),
        rollout=RolloutConfig(4, 4),
        reward=reward.WeightedSum({"target": 1.0}),
        update=UpdateConfig(epochs=2),
    )
    policy = Bigram(0.1 * jr.normal(jr.key(0), (10, 10)))
    return step.init(policy, key=jr.key(1)), step


@pytest.fixture(scope="module")
def of_values(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "values"
    fit(*values(), steps=4, out=path, checkpoint=runs.Checkpointing(every=2))
    return path


@pytest.mark.laws
def test_a_step_of_values_is_taken_again_and_its_rows_add_up(of_values):
    found = runs.replay_step(*values(), 4, run=of_values)
    assert found.agreement == Agreement({3: (), 4: ()}, None, (), ())
    assert found.agreement.exact and found.start == 2
    recorded = metrics_of(of_values, 4)
    assert found.metrics == {x: recorded[x] for x in found.metrics}
    rows, mask = found.inspection.rows, found.experience.trajectory.sampled
    loss = float(rows.loss.sum()) / 2
    assert loss == pytest.approx(recorded["loss"], abs=1e-6)
    for name, clips in (("low", rows.clip_low), ("high", rows.clip_high)):
        share = np.asarray(clips)[:, mask].mean()
        assert share == pytest.approx(recorded[f"clip_ratio/{name}_mean"], abs=1e-6)
    assert np.asarray(rows.clip_high).any()
    records = list(row_records(found))
    assert len(records) == 16 and "text" not in records[0]
    assert "<h3>Prompt 3</h3>" in page(found, records)


@pytest.mark.slow
def test_another_loss_has_the_samples_of_the_first_step(of_values):
    """Which is reached from the state that the run has started with."""
    state, step = values()
    other = dataclasses.replace(step, algorithm=algorithms.rloo())
    same = dataclasses.replace(step, algorithm=algorithms.grpo(low=0.01, high=0.01))
    given = {"rloo": other, "same": same}
    found = runs.replay_step(state, step, 1, run=of_values, alternatives=given)
    assert (found.start, found.agreement.metrics) == (0, {1: ()})
    rloo, again = (found.losses[name] for name in given)
    assert 0 < rloo.update_cosine < 0.9999 and 0 < rloo.gradient_cosine < 0.9999
    assert rloo.metrics["clip_ratio/high_mean"] == 0
    assert (again.gradient_cosine, again.update_norm) == pytest.approx((1, 1))
    assert again.metrics == pytest.approx(found.losses["run"].metrics, abs=1e-6)


@pytest.mark.slow
@pytest.mark.laws
def test_a_step_is_taken_again_and_its_rows_add_up(run, capsys):
    before = files_of(run)
    change = "algorithm.name=reinforce_plus_plus"
    argv = ["replay", run, "--step", "4", "--set", change]
    assert commands.main([str(x) for x in argv], {}) == 0
    said = capsys.readouterr().out
    assert said.count("equal, bit for bit") == 3 and files_of(run) == before
    found = json.loads((run / "replays" / "4" / "replay.json").read_text())
    assert (found["step"], found["start"]) == (4, 2)
    agreement = found["agreement"]
    assert agreement["exact"] and agreement["metrics"] == {"3": [], "4": []}
    assert agreement["completions"] is True and agreement["state"] == []
    recorded = metrics_of(run, 4)
    assert found["metrics"] == {x: recorded[x] for x in found["metrics"]}

    text = (run / "replays" / "4" / "rows.jsonl").read_text()
    rows = [json.loads(x) for x in text.splitlines()]
    assert [(x["prompt"], x["sample"]) for x in rows] == [
        (p, g) for p in range(2) for g in range(4)
    ]
    updates = [x["updates"] for x in rows]
    assert {len(x) for x in updates} == {2}
    loss = sum(x["loss"] for row in updates for x in row) / 2
    assert loss == pytest.approx(recorded["loss"], abs=1e-6)
    ratios = [y for row in updates for y in row[1]["ratio"]]
    clips = [y for row in updates for x in row for y in x["clipped"]]
    for side in ("low", "high"):
        share = clips.count(side) / len(clips)
        assert share == pytest.approx(recorded[f"clip_ratio/{side}_mean"], abs=1e-6)
    assert any(clips) and max(ratios) > 1.01
    assert np.mean([x["total"] for x in rows]) == pytest.approx(recorded["reward"])
    logged = (run / "completions.jsonl").read_text().splitlines()
    (first, *_) = (x for x in map(json.loads, logged) if x["step"] == 4)
    for row, sample in zip(rows, first["samples"], strict=False):
        for key in ("text", "pieces", "rewards", "total", "log_prob", "advantage"):
            assert row[key] == sample[key], key

    own, other = found["losses"].values()
    assert own["update_cosine"] == pytest.approx(1, abs=1e-6)
    assert own["metrics"]["grad_norm"] == pytest.approx(recorded["grad_norm"], rel=1e-5)
    assert 0 < other["gradient_cosine"] < 0.9999
    assert other["update_norm"] > 0 and list(found["losses"]) == ["run", change]

    page = (run / "replays" / "4" / "replay.html").read_text()
    assert "class=low" in page and "<script" not in page
    report = write_report([run], run.parent / "report").read_text()
    assert "## Replayed steps" in report and change in report


def test_what_cannot_be_replayed_is_refused(assignments, tmp_path, capsys):
    """Before anything is compiled."""
    run = tmp_path / "run"
    run.mkdir()
    recipe = recipes.load(Recipe(), None, assignments())
    (run / "config.yaml").write_text(recipes.dump(recipe))
    steps = [json.dumps({"step": step}) for step in range(1, 5)]
    (run / "metrics.jsonl").write_text("".join(f"{x}\n" for x in steps))

    def refused(*argv) -> str:
        assert commands.main(["replay", *map(str, argv)], {}) == 2
        return capsys.readouterr().err

    assert "has recorded 4 steps. Received step 5" in refused(run, "--step", 5)
    assert "There is none at" in refused(tmp_path, "--step", 1)
    said = refused(run, "--step", 4, "--set", "rollout.prompts=4")
    assert "only keys of `algorithm` and `update` may change" in said
    said = refused(run, "--step", 4, "--set", "algorithm.beta=0.1")
    assert "for a run that has kept none" in said


@pytest.mark.slow
@pytest.mark.laws
def test_step_17_of_a_run_that_was_killed_twice(assignments, tmp_path, compiled_once):
    """kill -9 in the midst of steps, and processes other than the one that replays."""
    path = tmp_path / "run"
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": compiled_once,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    words = [sys.executable, "-m", "grpojax", "train", "--out", str(path), "--resume"]
    changes = assignments(run__steps=20, checkpoint__every=5, log__completions=2)
    words += [word for pair in changes for word in ("--set", pair)]

    def steps() -> int:
        file = path / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    for kill_at in (7, 12):
        with subprocess.Popen(words, env=environment) as process:
            while steps() < kill_at:
                assert process.poll() is None
                time.sleep(0.002)
            process.kill()
        assert steps() < 20
    subprocess.run(words, env=environment, check=True)
    events = (path / "events.jsonl").read_text()
    assert events.count('"resume"') == 2
    found = runs.replay_run(path, 17)
    assert found.start == 15 and found.agreement.exact
    assert found.agreement.metrics == {16: (), 17: ()}
    assert found.agreement.completions is True and found.agreement.state is None
    last = runs.replay_run(path, 20)
    # All arrays of the policy and of the optimizer.
    assert last.agreement.exact and last.agreement.state == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        {"rollout__staleness": 1, "actors__data": 1},
        {"rollout__partial_prompts": 2, "rollout__slots": 4},
        {"mesh__data": 2},
        {"curriculum": "ShuffledEpochs", "rollout__train_prompts": 1},
        {"update__epochs": 1, "update__minibatches": 2, "algorithm__beta": 0.1},
    ],
    ids=["actors", "partial", "mesh", "curriculum", "minibatches"],
)
def test_every_kind_of_run_is_replayed(mode, assignments, tmp_path):
    path = tmp_path / "run"
    training.train(recipes.load(Recipe(), None, assignments(**mode)), path)
    found = runs.replay_run(path, 4, changes=["algorithm.name=dapo"])
    assert found.agreement.exact and found.agreement.state == ()
    rows = found.inspection.rows
    # Two updates in each of them.
    assert float(rows.loss.sum()) / 2 == pytest.approx(found.metrics["loss"], abs=1e-5)


@pytest.mark.slow
def test_a_run_whose_records_were_changed_does_not_agree(run, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    text = (path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(text[-1])
    text[-1] = json.dumps(record | {"loss": record["loss"] + 1e-7})
    (path / "metrics.jsonl").write_text("".join(f"{x}\n" for x in text))
    found = runs.replay_run(path, 4)
    assert found.agreement.metrics == {3: (), 4: ("loss",)}
    assert not found.agreement.exact
