"""Training runs of a tiny model: the files and records that they write."""

import dataclasses
import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grpojax
from grpojax import models, text
from grpojax.runs.cli import train as training
from grpojax.runs.evaluation.statistics import wilson
from grpojax.runs.recipe import build as parts, load as recipes
from grpojax.runs.recipe.parts.algorithm import build_algorithm
from grpojax.runs.recipe.parts.optimizer import build_optimizer
from grpojax.runs.recipe.parts.reward import build_reward
from grpojax.runs.recipe.schema import Recipe, Reward
from grpojax.runs.recipe.tasks import build_environments
from grpojax.runs.training.run import run as run_prepared
from grpojax.runs.training.step import CompiledStep, LoweredStep


def read(path) -> dict:
    return json.loads(path.read_text())


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """A recipe that was run, where, and the state after it."""
    recipe = recipes.load(Recipe(), None, settings())
    path = tmp_path_factory.mktemp("runs") / "run"
    return recipe, path, training.train(recipe, path)


def test_a_run_writes_all_of_its_files(run):
    recipe, path, state = run
    names = {entry.name for entry in path.iterdir()}
    assert names == {
        "config.yaml",
        "metrics.jsonl",
        "completions.jsonl",
        "evaluations.jsonl",
        "events.jsonl",
        "predictions",
        "checkpoints",
        "summary.json",
        "curve.png",
        "model",
        ".lock",
    }
    assert recipes.load(Recipe(), path / "config.yaml") == recipe
    assert recipe.run.steps == 2 and recipe.reward == Reward()
    assert (path / "curve.png").read_bytes().startswith(b"\x89PNG")
    policy = models.load(path / "model")
    assert jnp.array_equal(policy.embedding, state.policy.embedding)
    assert policy.vocab_size == text.load_tokenizer(path / "model").vocab_size


def test_the_summary_records_how_a_run_ended(run):
    _, path, _ = run
    summary = read(path / "summary.json")
    for when in ("before", "after"):
        low, high = summary.pop(f"ci95_{when}")
        assert 0 <= low <= summary.pop(f"accuracy_{when}") <= high <= 1
    assert summary.pop("seconds_total") > summary.pop("seconds_compile") > 0
    assert {"config.yaml", "metrics.jsonl"} < summary.pop("checksums").keys()
    assert len(summary.pop("checksum")) == 64
    where = {"python", "jax", "grpojax", "device", "commit", "origin"}
    assert where <= summary.keys()
    assert {name: x for name, x in summary.items() if name not in where} == {
        "kind": "training",
        "n_eval": 5,
        "steps": 2,
        "status": "finished",
        "complete": True,
    }
    events = lines(path / "events.jsonl")
    assert [(event["step"], event["kind"]) for event in events] == [
        (0, "start"),
        (2, "checkpoint"),
        (2, "finish"),
    ]
    assert 0 < events[0]["time"] < events[1]["time"] < events[2]["time"]


def test_every_step_has_a_line(run):
    _, path, _ = run
    records = lines(path / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    assert 0 < records[0]["time"] < records[1]["time"]
    assert set(records[0]) >= {
        "step_time",
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/correct/mean",
        "rewards/format/mean",
        "completions/mean_length",
        "completions/clipped_ratio",
        "num_tokens",
        "loss",
        "entropy",
        "grad_norm",
        "learning_rate",
    }


def test_every_evaluation_has_a_line(run):
    _, path, _ = run
    evaluations = lines(path / "evaluations.jsonl")
    assert [one["step"] for one in evaluations] == [0, 2]
    for one in evaluations:
        assert (one["split"], one["mode"]) == ("held_out", "sampled")
        assert (one["n"], one["problems"], one["samples"]) == (5, 5, 1)
        interval = wilson(round(5 * one["accuracy"]), 5)
        assert one["interval"] == pytest.approx(interval)
        written = lines(path / "predictions" / f"{one['step']}-sampled.jsonl")
        assert len(written) == 6  # After a header.
        right = [line["samples"][0]["correct"] for line in written[1:]]
        assert np.mean(right) == pytest.approx(one["accuracy"])


def test_completions_are_those_of_the_trajectory(run):
    """What is written is what the first half of the step makes of the same state."""
    recipe, path, _ = run
    policy, tokenizer = parts.load_model(recipe)
    env = build_environments(recipe, tokenizer).train
    state = grpojax.init(
        policy,
        optimizer=build_optimizer(recipe),
        key=parts.build_keys(recipe).train,
    )
    experience = jax.jit(
        lambda: grpojax.collect(
            state,
            env,
            build_algorithm(recipe),
            reward=build_reward(recipe, env, tokenizer, lambda: policy),
            rollout=grpojax.RolloutConfig(2, 4),
        )
    )()
    trajectory, rewards = experience.trajectory, experience.rewards
    written = lines(path / "completions.jsonl")
    assert [record["step"] for record in written] == [1, 1, 2, 2]
    for p, record in enumerate(written[:2]):
        prompt = trajectory.prompt.tokens[p, : trajectory.prompt.length[p]].tolist()
        assert record["prompt"] == tokenizer.decode(prompt)
        for g, sample in enumerate(record["samples"]):
            length = int(trajectory.lengths[p, g])
            assert len(sample["pieces"]) == len(sample["sampled"]) == length
            assert all(sample["sampled"])
            tokens = trajectory.tokens[p, g, :length].tolist()
            assert sample["text"] == tokenizer.decode(tokens)
            np.testing.assert_allclose(
                sample["log_prob"], trajectory.log_prob[p, g, :length], atol=1e-5
            )
            assert sample["total"] == rewards.total[p, g]
            assert sample["rewards"] == {
                name: float(x[p, g]) for name, x in trajectory.rewards.items()
            }
            assert sample["valid"] is True
            assert sample["terminated"] == trajectory.terminated[p, g]
            advantage = experience.advantages[p, g]
            assert sample["advantage"] == pytest.approx(float(advantage), abs=1e-5)


def timeless(record: dict) -> dict:
    return {key: x for key, x in record.items() if not key.endswith("time")}


@pytest.mark.slow
def test_the_same_recipe_twice_gives_the_same_lines(run, tmp_path):
    recipe, path, state = run
    again = training.train(recipe, tmp_path / "again")
    for name in ("metrics.jsonl", "evaluations.jsonl", "completions.jsonl"):
        first, second = (
            [timeless(line) for line in lines(folder / name)]
            for folder in (path, tmp_path / "again")
        )
        assert first == second and len(first) >= 2
    assert jnp.array_equal(state.policy.embedding, again.policy.embedding)


@pytest.mark.slow
def test_metrics_read_together_are_the_same_metrics(run, tmp_path):
    recipe, path, _ = run
    logged = dataclasses.replace(recipe.log, every=5, completions=1)
    together = dataclasses.replace(recipe, log=logged)
    training.train(together, tmp_path / "run")
    first, second = (
        [timeless(line) for line in lines(folder / "metrics.jsonl")]
        for folder in (path, tmp_path / "run")
    )
    assert len(first) == len(second) == 2
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    # Those of the last step that was read, of one prompt.
    written = lines(tmp_path / "run" / "completions.jsonl")
    assert [record["step"] for record in written] == [2]


def test_a_run_of_no_steps_only_evaluates(settings, tmp_path, model):
    recipe = recipes.load(Recipe(), None, settings(run__steps=0, log__completions=0))
    training.train(recipe, tmp_path / "run")
    summary = read(tmp_path / "run" / "summary.json")
    assert summary["steps"] == 0 and summary["complete"]
    assert summary["accuracy_before"] == summary["accuracy_after"]
    assert len(lines(tmp_path / "run" / "evaluations.jsonl")) == 1
    for kept in ("embedding", "norm"):
        read_part = lambda path, kept=kept: vars(models.load(path))[kept]
        assert jnp.array_equal(read_part(model), read_part(tmp_path / "run" / "model"))


@pytest.mark.slow
def test_all_held_out_problems_are_evaluated_by_default(settings, tmp_path):
    changes = dict(run__steps=0, run__eval_problems="null", data__task="addition")
    recipe = recipes.load(Recipe(), None, settings(**changes, data__train_rows="null"))
    prepared = training.prepare(recipe, tmp_path / "run")
    run_prepared(prepared)
    (evaluation,) = lines(tmp_path / "run" / "evaluations.jsonl")
    assert (
        evaluation["problems"]
        == prepared.evaluators["held_out"].evaluation.env.size
        > 5
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [(RuntimeError("lightning"), "failed"), (KeyboardInterrupt(), "stopped")],
)
def test_a_run_that_fails_records_that_and_keeps_its_metrics(
    settings, tmp_path, monkeypatch, error, status
):
    recipe = recipes.load(
        Recipe(), None, settings(log__every=5, run__steps=3, run__eval_problems=0)
    )
    names = ("loss", "reward", "num_tokens", "completions/mean_length")

    def step(state):
        if int(state.version) == 2:
            raise error
        state = eqx.tree_at(lambda s: s.version, state, state.version + 1)
        return state, {name: jnp.ones(()) for name in names}, None

    fake = lambda _: CompiledStep(step, lambda: None, 0.0, cached=False, bytes={})
    monkeypatch.setattr(LoweredStep, "compile", fake)
    prepared = training.prepare(recipe, tmp_path / "run")
    with pytest.raises(type(error)):
        run_prepared(prepared)
    summary = read(tmp_path / "run" / "summary.json")
    assert (summary["complete"], summary["status"]) == (False, status)
    assert summary["steps"] == 2 and summary["accuracy_after"] is None
    records = lines(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    assert all(math.isfinite(record["loss"]) for record in records)
    last = lines(tmp_path / "run" / "events.jsonl")[-1]
    assert last["kind"] == "stopped" and type(error).__name__ in last["message"]
