"""The measures of the three tasks: known values, trivial policies, records, reports."""

import itertools
import json
import math

import numpy as np
import pytest

from envs import next_video, opinion, slate_opinion
from envs.slates.measures import DirectionMeasures, OpinionMeasures, SlateMeasures
from envs.slates.options import NextVideoOptions, OpinionOptions, SlateOpinionOptions
from envs.slates.origin import direction_of, read_example
from envs.slates.rows import generate
from grpojax.measures import Answers
from grpojax.runs.evaluation.evaluate import Evaluation
from grpojax.runs.evaluation.predictions import read
from grpojax.runs.reports.read.evaluations import parse_evaluation

from ...helpers import mostly_slow, UniformPolicy
from ..double import PIECES


def answered(columns, answer, **rewards):
    """Columns with one answer, or a row of them, for each problem."""
    shape = (len(answer), -1)
    as_numbers = lambda x: np.array(x, float).reshape(shape)
    rows = {"issue": "guns", "participant_study": "study1", **columns}
    size = len(answer)
    full = {x: y if isinstance(y, list) else [y] * size for x, y in rows.items()}
    given = {x: as_numbers(y) for x, y in {"format": [1] * size, **rewards}.items()}
    return Answers(full, as_numbers(answer), given)


def values(found):
    return {x: y.value for x, y in found.items()}


def test_slates_by_bucket_and_trivial_policies():
    columns = {
        "gold_index": [1, 2, 2, 5, None],
        "n_options": [2, 2, 4, 6, 3],
        "issue": ["guns", "wage", "wage", "guns", "wage"],
    }
    right = [1, 0, 1, 1, 1]
    found = SlateMeasures()(answered(columns, [1, 1, 2, 5, np.nan], correct=right))
    shares = values(found.shares)
    assert shares["accuracy_overall"] == 0.75 and shares["parsed_rate"] == 0.8
    by = lambda name: {
        x.split("/")[1]: y for x, y in shares.items() if x.startswith(f"{name}/")
    }
    assert by("accuracy_by_position") == {"1": 1.0, "2": 0.5, "5+": 1.0}
    assert by("accuracy_by_options") == {"2": 0.5, "4": 1.0, "5+": 1.0}
    assert by("accuracy_by_issue") == {"guns": 1.0, "wage": 0.5}
    assert by("accuracy_by_participant_study") == {"study1": 0.75}
    assert values(found.baselines) == {
        "most_frequent_gold_index": 0.5,
        "random": pytest.approx((1 / 2 + 1 / 2 + 1 / 4 + 1 / 6) / 4),
        "always_first": 0.25,
        "always_last": 0.25,
    }
    assert found.shares["accuracy_overall"].n == 4
    assert "bayes_accuracy" not in shares


def viewers(count=400):
    rows = itertools.islice(generate(0, "real"), count)
    every = map(read_example, rows)
    return [*{x.ids["participant_id"]: x for x in every}.values()]


def columns_of(examples):
    return {
        "before": [x.before for x in examples],
        "after": [x.after for x in examples],
        "direction": [direction_of(x.before, x.after, 0.02) for x in examples],
    }


def test_a_policy_that_says_increase_scores_the_share_that_rose():
    columns = columns_of(viewers())
    rose = [x == "increase" for x in columns["direction"]]
    found = DirectionMeasures()(answered(columns, [2] * len(rose), correct=rose))
    assert found.shares["direction_accuracy"].value == np.mean(rose)
    assert found.baselines["always_increase"].value == np.mean(rose)
    every = [found.baselines[x].value for x in ("no_change", "always_decrease")]
    assert math.fsum([*every, float(np.mean(rose))]) == pytest.approx(1)


def test_a_policy_that_predicts_no_change():
    columns = columns_of(viewers())
    before, after = np.array(columns["before"]), np.array(columns["after"])
    found = OpinionMeasures(0.02)(answered(columns, np.round(100 * before)))
    numbers, shares = values(found.numbers), values(found.shares)
    mae = np.mean(np.abs(after - before))
    for name in ("mae_after", "mae_change", "baseline_mae_using_before"):
        assert numbers[name] == pytest.approx(mae)
    assert numbers["rmse_after"] == numbers["baseline_rmse_using_before"]
    still = np.mean([x == "no_change" for x in columns["direction"]])
    assert shares["direction_accuracy"] == pytest.approx(still)
    assert shares["baseline_direction_accuracy"] == pytest.approx(still)
    # All predicted changes are alike: there is no line through them.
    assert "calibration_slope" not in numbers and numbers["calibration_ece"] > 0
    assert numbers["baseline_rmse_global_mean"] == pytest.approx(np.std(after))


def test_completions_without_a_number_are_left_out_and_counted():
    columns = {"before": [0.5] * 4, "after": [0.5, 0.6, 0.9, 0.1]}
    answers = [50, 300, np.nan, 10]
    found = OpinionMeasures()(answered(columns, answers))
    shares, numbers = values(found.shares), values(found.numbers)
    assert shares["parsed_rate"] == 0.75 and shares["clipped_rate"] == 0.25
    assert numbers["mae_after"] == pytest.approx(0.4 / 3)
    assert found.numbers["mae_after"].n == 3
    assert shares["direction_accuracy"] == 1.0
    nothing = OpinionMeasures()(answered(columns, [np.nan] * 4))
    assert {x for x in nothing.numbers if "baseline" not in x} == set()
    assert values(nothing.shares)["parsed_rate"] == 0.0


def test_a_perfect_and_a_steep_prediction():
    draw = np.random.default_rng(0)
    before, after = draw.integers(0, 101, (2, 60)) / 100
    columns = {"before": before.tolist(), "after": after.tolist()}
    found = OpinionMeasures()(answered(columns, np.round(100 * after)))
    numbers = values(found.numbers)
    assert numbers["r2_after"] == 1.0 and numbers["mae_after"] == pytest.approx(0)
    assert numbers["calibration_slope"] == pytest.approx(1)
    assert numbers["kl_divergence_change"] == pytest.approx(0)
    assert found.numbers["calibration_slope"].interval == pytest.approx((1, 1))
    half = answered(columns, np.round(50 * (before + after)))
    slope = OpinionMeasures()(half).numbers["calibration_slope"]
    assert slope.value == pytest.approx(2, abs=0.05)
    assert slope.interval[0] <= slope.value <= slope.interval[1]


TASKS = {
    "next_video": (next_video, NextVideoOptions(train_rows=4)),
    "opinion": (opinion, OpinionOptions(train_rows=4)),
    "opinion_value": (opinion, OpinionOptions(train_rows=4, mode="value")),
    "slate_opinion": (slate_opinion, SlateOpinionOptions(train_rows=4)),
}


@pytest.mark.parametrize("task", mostly_slow(TASKS, fast=["opinion_value"]))
def test_an_evaluation_records_the_measures_of_its_task(task, tokenizer, tmp_path):
    module, options = TASKS[task]
    _, env, _ = module.environments(options, tokenizer, horizon=4, held_out=6)
    policy, path = UniformPolicy(len(PIECES)), tmp_path / "predictions.jsonl"
    evaluation = Evaluation(env, samples=2, batch=4)
    result = evaluation.run(policy, predictions=path, tokenizer=tokenizer)
    own = env.own_measures
    # Of completions without a number there are no errors.
    errors = {"mae_after", "rmse_after", "mae_change", "rmse_change"}
    assert {*own.names} <= {*result.metrics} | errors | {"direction_accuracy"}
    record = {"step": 3, **evaluation.to_json(), **result.to_json()}
    shown = parse_evaluation(json.loads(json.dumps(record)))
    finite = {x: y for x, y in result.metrics.items() if x in shown.metrics}
    assert shown.metrics == finite and len(finite) > 5
    # What was recorded is enough to measure again, whole or not.
    again = read(path).to_json(own)
    assert again["complete"] and again["metrics"] == result.to_json()["metrics"]
    assert again["n_total"] == 6
    row = read(path).records[0]["row"]
    assert row["uid"] == env.rows["uid"][0] and row["issue"] == env.rows["issue"][0]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]))
    partial = read(path).to_json(own)
    assert (partial["complete"], partial["n_total"], partial["problems"]) == (
        False,
        6,
        3,
    )
    path.write_text(lines[0])
    assert read(path).to_json(own) == {"n_total": 6, "complete": False}
