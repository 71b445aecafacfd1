"""Evaluations of a mixture: equal shares of its tasks, each measured for itself."""

import dataclasses
import json

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from envs.mixture import Mixture
from grpojax.reward import WeightedSum
from grpojax.rollout import Greedy
from grpojax.runs import write_report
from grpojax.runs.cli import evaluate as evaluating, train as training
from grpojax.runs.evaluation.evaluate import Evaluation
from grpojax.runs.evaluation.evaluator import Evaluator
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe

from ..training.values import Bigram
from .test_evaluation import parity_env


@pytest.fixture
def tasks():
    return {"few": parity_env(3), "many": parity_env(20, seed=1)}


@pytest.mark.parametrize(
    ("problems", "shares"),
    [(None, (3, 20)), (1, (1, 0)), (5, (3, 2)), (6, (3, 3)), (11, (3, 8))],
)
def test_shares_are_equal_as_far_as_there_are_problems(tasks, problems, shares):
    evaluation = Evaluation(Mixture(tasks), problems=problems)
    assert tuple(evaluation.shares.values()) == shares
    numbers = [*range(shares[0]), *range(3, 3 + shares[1])]
    assert evaluation.numbers.tolist() == numbers
    assert Evaluation(tasks["few"], problems=2).numbers.tolist() == [0, 1]


def test_each_task_is_measured_as_it_is_alone(tasks):
    policy = Bigram(jr.normal(jr.key(0), (50, 50)))
    greedy = {"sampler": Greedy(), "reward": WeightedSum({"correct": 2.0, "half": 1.0})}
    mixed = Evaluation(Mixture(tasks), problems=9, batch=4, **greedy)
    result = mixed.run(policy)
    assert result.tasks == ["few"] * 3 + ["many"] * 6
    for name, env in tasks.items():
        alone = Evaluation(env, problems=mixed.shares[name], **greedy).run(policy)
        assert result.metrics[f"accuracy/{name}"] == alone.measures["accuracy"]
        assert result.metrics[f"reward/{name}"] == alone.metrics["reward"]
    each = [result.metrics[f"accuracy/{name}"] for name in tasks]
    assert each[0].value != each[1].value
    mean = np.average([x.value for x in each], weights=[3, 6])
    np.testing.assert_allclose(result.accuracy, mean)
    assert {*result.metrics} <= {*Evaluator(mixed, policy).measures(policy)}


class Unpaid(eqx.Module):
    """The right answer of the task `half` alone; the others' rewards do not apply."""

    def __call__(self, trajectory):
        judged = WeightedSum({"correct": 1.0})(trajectory)
        few = (trajectory.states.task == 0)[:, None]
        found = {
            "right": jnp.where(few, judged.components["correct"], jnp.nan),
            "nice": jnp.ones_like(judged.total),
        }
        return dataclasses.replace(judged, total=found["nice"], components=found)


def test_an_accuracy_is_of_the_tasks_that_have_one(tasks):
    policy = Bigram(jr.normal(jr.key(0), (50, 50)))
    judged = {"reward": Unpaid(), "success": "right", "samples": 2}
    result = Evaluation(Mixture(tasks), batch=4, **judged).run(policy)
    alone = Evaluation(tasks["few"], samples=2).run(policy)
    assert result.judged.tolist() == [True] * 3 + [False] * 20
    assert result.accuracy == alone.accuracy
    for name in ("accuracy", "pass@1", "pass@2", "mean@2", "accuracy/few"):
        assert result.measures[name] == alone.measures[name.partition("/")[0]], name
    assert "accuracy/many" not in result.measures
    assert result.measures["reward/many"].n == 20


@pytest.mark.slow
def test_a_recipe_s_mixture_is_evaluated_by_task(settings, tmp_path):
    """In records, summaries and reports, and as the best; old keys mean the same."""
    kept = [x for x in settings(run__steps=1) if not x.startswith(("data.", "run.ev"))]
    words = [
        *kept,
        "data.task=mixture",
        "data.tasks=[{task: gsm8k, train_rows: 6, problems: 2}, {task: addition, "
        "name: sums, max_new_tokens: 3, eval_problems: 4}]",
        "evaluations.held_out.every=1",
        "checkpoint={every: 1, keep_best: 1, best_by: held_out.accuracy/sums}",
    ]
    recipe = recipes.load(Recipe(), None, words)
    assert recipe.data.option("tasks")[1]["problems"] == 4
    training.train(recipe, tmp_path / "run")
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    records = [json.loads(line)["metrics"] for line in lines]
    assert [x["accuracy/gsm8k"]["n"] for x in records] == [2, 2]
    assert [x["accuracy/sums"]["n"] for x in records] == [4, 4]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for when, record in zip(("before", "after"), records, strict=True):
        assert summary[f"tasks_{when}"] == {
            task: {"accuracy": found["value"], "ci95": found["interval"]}
            for task in ("gsm8k", "sums")
            for found in [record[f"accuracy/{task}"]]
        }
    report = write_report([tmp_path / "run"]).read_text()
    assert "accuracy/gsm8k" in report and "accuracy/sums" in report
    model = recipes.load(recipe, None, [f"model.path={tmp_path / 'run'}"])
    evaluating.evaluate(model, tmp_path / "judged")
    judged = json.loads((tmp_path / "judged" / "summary.json").read_text())
    assert judged["tasks"] == summary["tasks_after"]
    predictions = (tmp_path / "judged" / "predictions" / "1-sampled.jsonl").read_text()
    found = [json.loads(line).get("task") for line in predictions.splitlines()]
    assert found == [None, "gsm8k", "gsm8k", *["sums"] * 4]


def test_no_mixture_no_task(tasks):
    result = Evaluation(tasks["few"]).run(Bigram(jnp.zeros((50, 50))))
    assert result.tasks == [] and "accuracy/few" not in result.metrics
