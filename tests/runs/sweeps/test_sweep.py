"""Runs of a sweep: what each would be alone, through one compiled program."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from grpojax import models
from grpojax.runs import train_sweep
from grpojax.runs.cli import main as commands, train as training
from grpojax.runs.distributed.preemption import PreemptedError
from grpojax.runs.evaluation.evaluator import Evaluator
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe
from grpojax.runs.reports import write_report
from grpojax.runs.sweeps import sweep as sweeps
from grpojax.runs.sweeps.grid import recipes_of
from grpojax.runs.training import fit
from grpojax.runs.training.devices import programs
from grpojax.runs.training.health import DivergedError

from ..training.test_resume import assert_equal_runs, interrupt, lines


RATES = "sweep.optimizer.learning_rate=[1e-3, 1e-2]"


@pytest.fixture(scope="module")
def recipe(settings):
    def build(*assignments) -> Recipe:
        given = settings(checkpoint__every=1, run__steps=2)
        return recipes.load(Recipe(), None, [*given, *assignments])

    return build


@pytest.fixture(scope="module")
def seeds(recipe):
    return recipe("run.seeds=2")


@pytest.fixture(scope="module")
def full(seeds, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "full"
    assert train_sweep(seeds, path) == path / "report.md"
    return path


def count(monkeypatch, where, name: str) -> list:
    """The calls of a function from now on."""
    calls, function = [], getattr(where, name)

    def counting(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(where, name, counting)
    return calls


def summary(path) -> dict:
    return json.loads((path / "summary.json").read_text())


@pytest.mark.laws
def test_a_seed_of_a_sweep_is_its_own_run_bit_for_bit(seeds, full, tmp_path):
    assert {x.name for x in full.iterdir() if x.is_dir()} == {
        *("seed-0", "seed-1", "report_files")
    }
    # The second one: the first one has compiled its own program.
    training.train(recipes_of(seeds)["seed-1"], tmp_path / "alone")
    assert_equal_runs(full / "seed-1", tmp_path / "alone")
    entropies = [
        [x["entropy"] for x in lines(full / name / "metrics.jsonl")]
        for name in ("seed-0", "seed-1")
    ]
    assert entropies[0] != entropies[1]


def test_the_directory_of_a_sweep_says_what_it_holds(seeds, full, tmp_path):
    recorded = summary(full)
    del recorded["checksum"], recorded["checksums"]
    assert recorded == {
        "kind": "sweep",
        "status": "finished",
        "runs": ["seed-0", "seed-1"],
        "complete": True,
    }
    assert recipes.load(Recipe(), full / "config.yaml") == seeds
    text = (full / "report.md").read_text()
    assert "2 seeds" in text or "over seeds" in text
    # The directory stands for its runs.
    again = write_report([full], out=tmp_path / "report")
    assert again.read_text() == text
    with pytest.raises(FileExistsError, match="never overwrites"):
        train_sweep(seeds, full)
    with pytest.raises(ValueError, match="one kind of run"):
        training.train(recipes_of(seeds)["seed-0"], full, resume=True)


@pytest.mark.laws
def test_a_sweep_that_was_stopped_goes_on_where_it_was(
    seeds, full, tmp_path, monkeypatch
):
    path = tmp_path / "sweep"
    # A copy in which the second run was told to leave after its first step.
    shutil.copytree(full / "seed-0", path / "seed-0")
    (path / "config.yaml").write_bytes((full / "config.yaml").read_bytes())
    with monkeypatch.context() as patch:
        interrupt(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(PreemptedError, match="SIGTERM"):
            train_sweep(seeds, path, resume=True)
    assert (summary(path)["status"], summary(path)["complete"]) == ("preempted", False)
    assert summary(path / "seed-1")["steps"] == 1
    before = (path / "seed-0" / "events.jsonl").read_bytes()
    train_sweep(seeds, path, resume=True)
    for name in ("seed-0", "seed-1"):
        assert_equal_runs(path / name, full / name)
    # What was finished has not been touched.
    assert (path / "seed-0" / "events.jsonl").read_bytes() == before
    assert (path / "report.md").read_text() == (full / "report.md").read_text()
    assert summary(path)["complete"]


@pytest.mark.slow
@pytest.mark.laws
def test_learning_rates_are_inputs_of_one_program(recipe, tmp_path, monkeypatch):
    sweep = recipe(RATES, "run.seeds=2", "optimizer.schedule=cosine")
    traced = count(monkeypatch, fit, "lower")
    evaluated = count(monkeypatch, Evaluator, "__init__")
    compiled = count(monkeypatch, programs, "Program")
    train_sweep(sweep, tmp_path / "sweep")
    assert (len(traced), len(evaluated), len(compiled)) == (1, 1, 1)
    for name, one in recipes_of(sweep).items():
        alone, several = tmp_path / name, tmp_path / "sweep" / name
        training.train(one, alone)
        for now, then in zip(
            lines(several / "metrics.jsonl", untimed=True),
            lines(alone / "metrics.jsonl", untimed=True),
            strict=True,
        ):
            assert now == pytest.approx(then, abs=1e-6, nan_ok=True)
        for now, then in zip(
            jax.tree.leaves(models.load(several / "model")),
            jax.tree.leaves(models.load(alone / "model")),
            strict=True,
        ):
            np.testing.assert_allclose(now, then, atol=1e-6)
    text = (tmp_path / "sweep" / "report.md").read_text()
    assert "paired by seed, over 2 seeds" in text


@pytest.mark.slow
def test_values_that_are_no_inputs_have_programs_of_their_own(
    recipe, tmp_path, monkeypatch
):
    sweep = recipe("sweep.algorithm.name=[grpo, gspo]", "run.seeds=2")
    traced = count(monkeypatch, fit, "lower")
    train_sweep(sweep, tmp_path)
    assert len(traced) == 2
    assert {x.name for x in tmp_path.iterdir() if x.is_dir()} == {
        *(f"name-{x}-seed-{i}" for x in ("grpo", "gspo") for i in range(2)),
        "report_files",
    }


@pytest.mark.slow
def test_a_run_that_diverges_leaves_the_others(seeds, tmp_path, monkeypatch):
    def run(prepared):
        if prepared.out.name == "seed-0":
            raise DivergedError("it has diverged")
        taken.append(prepared.out.name)

    taken: list[str] = []
    monkeypatch.setattr(sweeps.fit, "run", run)
    monkeypatch.setattr(sweeps, "write_report", lambda *_: None)
    with pytest.raises(DivergedError, match="1 of 2 runs have diverged: seed-0"):
        train_sweep(seeds, tmp_path / "sweep")
    assert taken == ["seed-1"] and summary(tmp_path / "sweep")["status"] == "failed"


def test_nothing_is_written_for_a_sweep_that_cannot_be(recipe, seeds, tmp_path):
    out = tmp_path / "sweep"
    with pytest.raises(ValueError, match="algorithm"):
        train_sweep(recipe("sweep.algorithm.name=[grpo, gpro]"), out)
    with pytest.raises(ValueError, match="describe several runs"):
        training.train(seeds, out)
    with pytest.raises(ValueError, match="name one with --out"):
        training.prepare_sweep(seeds, None)
    assert not out.exists()


def test_the_command_takes_all_runs_of_a_sweep(
    arguments, tmp_path, monkeypatch, capsys
):
    def run(sweep):
        taken.append((list(sweep.recipes), sweep.out, sweep.resume))
        raise DivergedError("1 of 2 runs have diverged")

    taken: list[tuple] = []
    monkeypatch.setattr(sweeps.Sweep, "run", run)
    words = ["train", *arguments(run__seeds=2)]
    assert commands.main([*words, "--out", str(tmp_path)], {}) == 3
    assert "1 of 2 runs" in capsys.readouterr().err
    assert taken == [(["seed-0", "seed-1"], tmp_path, False)]
    assert commands.main(words, {}) == 2
    assert "name one with --out" in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_of_a_sweep_is_that_of_its_first_run(arguments, tmp_path, capsys):
    out = tmp_path / "sweep"
    words = ["train", *arguments(run__seeds=2), "--dry-run", "--out", str(out)]
    assert commands.main(words, {}) == 0
    assert "tracing the step" in capsys.readouterr().out
    assert not out.exists()
