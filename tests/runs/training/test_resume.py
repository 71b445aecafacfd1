"""A run that was interrupted ends as one that was not, to the last bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from grpojax import models
from grpojax.runs.cli import train as training
from grpojax.runs.distributed.preemption import EXIT_PREEMPTED, PreemptedError
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe
from grpojax.runs.tracking import build as trackers
from grpojax.runs.training.display.progress import Progress
from grpojax.runs.training.health import DivergedError


@pytest.fixture(scope="module")
def assignments(settings):
    def build(**changes) -> list[str]:
        return settings(**{"run__steps": 4, "checkpoint__every": 1, **changes})

    return build


@pytest.fixture(scope="module")
def recipe(assignments):
    return recipes.load(Recipe(), None, assignments())


@pytest.fixture(scope="module")
def full(recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "full"
    training.train(recipe, path)
    return path


def lines(path, *, untimed: bool = False) -> list[dict]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    if untimed:
        for record in records:
            del record["time"], record["step_time"]
    return records


def assert_equal_runs(path, full):
    for name in ("completions.jsonl", "evaluations.jsonl", "config.yaml"):
        assert (path / name).read_bytes() == (full / name).read_bytes(), name
    metrics = lines(path / "metrics.jsonl", untimed=True)
    assert metrics == lines(full / "metrics.jsonl", untimed=True)
    for folder in ("predictions", "model"):
        names = {x.name for x in (full / folder).iterdir()}
        assert {x.name for x in (path / folder).iterdir()} == names
        for name in names - {"unfinished"}:
            expected = (full / folder / name).read_bytes()
            assert (path / folder / name).read_bytes() == expected, name
    summary, expected = (
        json.loads((p / "summary.json").read_text()) for p in (path, full)
    )
    for record in (summary, expected):
        del record["seconds_total"], record["seconds_compile"]
        del record["checksums"], record["checksum"]  # Of the clock, too.
    assert summary == expected and summary["complete"]


def interrupt(monkeypatch, step: int, act):
    """Does something while a step is being reported."""
    update = Progress.update

    def acting(self, number, metrics):
        update(self, number, metrics)
        if number == step:
            act()

    monkeypatch.setattr(Progress, "update", acting)


def fail():
    raise RuntimeError("the lights go out")


def stopped(recipe, path, monkeypatch, step: int = 3):
    """A run that ended in the midst of a step."""
    with monkeypatch.context() as patch:
        interrupt(patch, step, fail)
        with pytest.raises(RuntimeError, match="lights"):
            training.train(recipe, path)
    return path


@pytest.mark.laws
def test_a_preempted_run_resumes(recipe, full, tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(PreemptedError, match="SIGTERM"):
            training.train(recipe, path)
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["status"], summary["complete"]) == ("preempted", False)
    assert summary["steps"] == len(lines(path / "metrics.jsonl")) == 2
    training.train(recipe, path, resume=True)
    assert_equal_runs(path, full)
    kinds = [event["kind"] for event in lines(path / "events.jsonl")]
    assert kinds[0] == "start" and kinds[-1] == "finish"
    assert kinds.count("resume") == kinds.count("preempted") == 1


@pytest.mark.slow
@pytest.mark.laws
def test_a_failure_between_a_step_and_its_checkpoint(
    recipe, full, tmp_path, monkeypatch
):
    """A line of metrics is there that no checkpoint knows: it must not come twice."""
    path = stopped(recipe, tmp_path / "run", monkeypatch)
    assert len(lines(path / "metrics.jsonl")) == 3
    assert {x.name for x in (path / "checkpoints").iterdir()} == {"1", "2"}
    assert json.loads((path / "summary.json").read_text())["status"] == "failed"
    training.train(recipe, path, resume=True)
    assert_equal_runs(path, full)


@pytest.mark.slow
def test_half_a_line_and_a_damaged_checkpoint(recipe, full, tmp_path, monkeypatch):
    path = stopped(recipe, tmp_path / "run", monkeypatch)
    for file in (path / "checkpoints" / "2").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            content = bytearray(file.read_bytes())
            content[500] ^= 1
            file.write_bytes(content)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    training.train(recipe, path, resume=True)
    assert_equal_runs(path, full)
    warnings = [x for x in lines(path / "events.jsonl") if x["kind"] == "warning"]
    found = [x["message"] for x in warnings if "checkpoint" in x["message"]]
    (message,) = found
    assert "The checkpoint of step 2 cannot be used" in message


@pytest.mark.slow
def test_metrics_that_were_deleted_come_back(recipe, full, tmp_path, monkeypatch):
    path = stopped(recipe, tmp_path / "run", monkeypatch)
    (path / "metrics.jsonl").unlink()
    training.train(recipe, path, resume=True)
    assert_equal_runs(path, full)
    messages = [x["message"] for x in lines(path / "events.jsonl")]
    assert any("metrics.jsonl did not begin with the 2 lines" in x for x in messages)


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is_and_can_be_longer(
    recipe, assignments, full, tmp_path
):
    path = shutil.copytree(full, tmp_path / "run")
    training.train(recipe, path, resume=True)
    assert_equal_runs(path, full)
    longer = recipes.load(Recipe(), None, [*assignments(), "run.steps=5"])
    training.train(longer, path, resume=True)
    anew = tmp_path / "anew"
    training.train(longer, anew)
    metrics = lines(path / "metrics.jsonl", untimed=True)
    assert metrics == lines(anew / "metrics.jsonl", untimed=True)
    steps = [x["step"] for x in lines(path / "evaluations.jsonl")]
    assert steps == [0, 4, 5]


def test_another_recipe_or_model_is_refused_and_nothing_is_lost(
    assignments, full, small_vocabulary, tmp_path
):
    path = shutil.copytree(full, tmp_path / "run")
    found = lambda: [x for x in path.rglob("*") if x.is_file() and x.name[0] != "."]
    files = {x: x.read_bytes() for x in found()}
    faster = recipes.load(Recipe(), None, assignments(optimizer__learning_rate=1))
    with pytest.raises(ValueError, match="`optimizer.learning_rate` was 5e-05"):
        training.train(faster, path, resume=True)
    other = recipes.load(Recipe(), None, assignments(model__path=small_vocabulary))
    with pytest.raises(ValueError, match="`model.path` was"):
        training.train(other, path, resume=True)
    fewer = recipes.load(Recipe(), None, assignments(run__steps=2))
    with pytest.raises(ValueError, match="Received 2 steps, and .* has taken 4"):
        training.train(fewer, path, resume=True)
    with pytest.raises(FileExistsError, match="resume it"):
        training.train(recipes.load(Recipe(), None, assignments()), path)
    assert files == {x: x.read_bytes() for x in found()}


@pytest.mark.slow
def test_a_model_that_was_replaced_is_refused(
    assignments, model, tmp_path, monkeypatch
):
    """The same path, another shape."""
    place = shutil.copytree(model, tmp_path / "model")
    recipe = recipes.load(Recipe(), None, assignments(model__path=place))
    path = stopped(recipe, tmp_path / "run", monkeypatch, step=2)
    config = json.loads((place / "config.json").read_text())
    wider = models.TransformerConfig(
        vocab_size=config["vocab_size"],
        hidden_size=16,
        intermediate_size=48,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        tied=True,
    )
    models.save(models.Transformer(wider, key=jax.random.key(0)), place)
    with pytest.raises(ValueError, match="checkpoint"):
        training.train(recipe, path, resume=True)


@pytest.mark.slow
def test_a_data_file_that_is_gone(assignments, tmp_path, monkeypatch):
    data = tmp_path / "problems.jsonl"
    rows = [
        {"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(30)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipes.load(
        Recipe(), None, assignments(data__path=data, data__train_rows="null")
    )
    path = stopped(recipe, tmp_path / "run", monkeypatch, step=2)
    before = (path / "metrics.jsonl").read_bytes()
    data.rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises((FileNotFoundError, ValueError), match="problems.jsonl"):
        training.train(recipe, path, resume=True)
    assert (path / "metrics.jsonl").read_bytes() == before
    (tmp_path / "elsewhere.jsonl").rename(data)
    training.train(recipe, path, resume=True)
    assert len(lines(path / "metrics.jsonl")) == 4


@pytest.mark.slow
def test_a_run_that_does_nothing_stops(assignments, model, tmp_path):
    """Logits that overflow have no finite gradient: every update is skipped."""
    place = shutil.copytree(model, tmp_path / "model")
    largest = jnp.finfo(jnp.float32).max
    broken = eqx.tree_at(
        lambda policy: policy.norm, models.load(place), replace_fn=lambda x: x * largest
    )
    models.save(broken, place)
    recipe = recipes.load(
        Recipe(), None, assignments(model__path=place, health__skipped_steps=2)
    )
    path = tmp_path / "run"
    with pytest.raises(DivergedError, match="not finite in 2 steps"):
        training.train(recipe, path)
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("stopped", 2)
    assert not (path / "checkpoints").exists()


@pytest.mark.slow
def test_a_tracker_has_every_step_once(assignments, tmp_path, monkeypatch):
    """Also of a run that was interrupted between a step and its checkpoint."""
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    recipe = recipes.load(Recipe(), None, assignments(tracking__tensorboard="true"))
    path = stopped(recipe, tmp_path / "run", monkeypatch)
    training.train(recipe, path, resume=True)
    events = reader.EventAccumulator(str(path / "tracking" / "tensorboard"))
    events.Reload()
    values = [(event.step, event.value) for event in events.Scalars("loss")]
    written = [(x["step"], x["loss"]) for x in lines(path / "metrics.jsonl")]
    assert values == [(step, pytest.approx(loss)) for step, loss in written]


def test_trackers_ask_for_a_directory_and_for_their_packages(assignments, monkeypatch):
    recipe = recipes.load(Recipe(), None, assignments(tracking__wandb="offline"))
    with pytest.raises(ValueError, match="Received wandb without one"):
        training.train(recipe)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ImportError, match="`tracking.wandb` needs the package wandb"):
        trackers.check(Path("nowhere"), ["wandb"])


def command(assignments, path) -> list[str]:
    words = [sys.executable, "-m", "grpojax", "train", "--out", str(path), "--resume"]
    return words + [word for pair in assignments for word in ("--set", pair)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [
        {},
        {"rollout__staleness": 1, "actors__data": 1},
        {"rollout__partial_prompts": 2, "rollout__slots": 4},
    ],
    ids=["plain", "actors", "partial"],
)
def test_twenty_kills(mode, assignments, tmp_path, compiled_once):
    """kill -9 at random instants, again and again; the run ends as if nothing was."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": compiled_once,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    words = assignments(run__eval_problems=24, **mode)
    run = lambda path: subprocess.Popen(
        command(words, path),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )

    def finish(path):
        with run(path) as process:
            _, errors = process.communicate()
            assert process.returncode == 0, errors

    finish(tmp_path / "warm")  # Fills the cache of programs.
    start = time.monotonic()
    finish(tmp_path / "full")
    seconds = time.monotonic() - start
    instants, kills, number = random.Random(0), 0, 0
    while kills < 20:
        path = tmp_path / str(number)
        with run(path) as process:
            try:
                _, errors = process.communicate(
                    timeout=instants.uniform(0.2, 1.0) * seconds
                )
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
                continue
        assert process.returncode == 0, errors
        assert_equal_runs(path, tmp_path / "full")
        number += 1
    finish(path)
    assert_equal_runs(path, tmp_path / "full")


@pytest.mark.slow
def test_the_exit_code_of_a_preempted_run(assignments, tmp_path):
    words = assignments(run__steps=10**6)
    path = tmp_path / "run"
    process = subprocess.Popen(command(words, path), stdout=subprocess.DEVNULL)
    while not (path / "metrics.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.2)
    process.terminate()
    assert process.wait(timeout=300) == EXIT_PREEMPTED
