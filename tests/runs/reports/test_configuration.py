"""Configurations: recipes old and new, and values without a recipe."""

import json
import re

import pytest
import yaml

from grpojax.runs.reports import write_report
from grpojax.runs.reports.text.numbers import setting_text

from .fixtures import (
    embedded,
    recipe,
    report_text,
    table_after,
    unescaped,
    write_lines,
    write_run,
)


COMPOSED = {
    **recipe(),
    "rollout": {"prompts": 16, "group": 4, "train_prompts": 8, "max_new_tokens": 40},
    "reward": {
        "weights": {"correct": 1.0, "brief": 0.1},
        "terms": [{"name": "SoftOverlong", "horizon": 256, "buffer": 64}],
        "shapings": ["drop_truncated"],
    },
    "algorithm": {
        "name": "dapo",
        "high": 0.28,
        "penalties": [{"name": "KL", "coefficient": 0.04}],
    },
    "optimizer": {
        "name": "adamw",
        "learning_rate": {"name": "linear", "init_value": 5e-05, "end_value": 0.0},
        "schedule": "constant",
    },
}

# What `grpojax.fit` may record of the values that it was called with.
VALUES = {
    "policy": {"name": "Transformer", "config": {"layers": 2, "window": None}},
    "env": {"name": "GSM8K", "max_completion_length": 40},
    "algorithm": {"name": "Algorithm", "advantage": "GroupNormalized"},
    "rollout": {"name": "RolloutConfig", "prompts": 16, "group": 4, "slots": None},
}


def configured(path, config, **changes):
    run = write_run(path, **changes)
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return run


def top_of(text):
    return unescaped(text.split("\n## ")[0])


@pytest.mark.usefixtures("quick")
def test_a_composed_recipe_is_summarized_and_listed(tmp_path):
    text = unescaped(report_text(configured(tmp_path / "run", COMPOSED)))
    for part in (
        "algorithm `dapo`",
        "reward weights `correct=1.0, brief=0.1`",
        "optimizer `adamw`",
        "learning rate `linear(init_value=5e-05, end_value=0.0)` (`constant`)",
        "`16` prompts per step",
    ):
        assert part in top_of(text)
    listed = text.split("## Configuration\n\n")[1]
    assert "reward.terms: [SoftOverlong(horizon=256, buffer=64)]\n" in listed
    assert "algorithm.penalties: [KL(coefficient=0.04)]\n" in listed
    assert "rollout.train_prompts: 8\n" in listed


@pytest.mark.usefixtures("quick")
def test_parts_that_differ_are_shown(tmp_path):
    other = json.loads(json.dumps(COMPOSED))
    other["algorithm"]["penalties"][0]["coefficient"] = 0.1
    runs = [
        configured(tmp_path / "one", COMPOSED),
        configured(tmp_path / "two", other),
    ]
    text = write_report(runs, tmp_path / "out").read_text()
    assert table_after(text, "Differences") == [
        {
            "key": "`algorithm.penalties`",
            "penalties=[KL(coefficient=0.04)]": "[KL(coefficient=0.04)]",
            "penalties=[KL(coefficient=0.1)]": "[KL(coefficient=0.1)]",
        }
    ]


@pytest.mark.parametrize(
    "reward",
    [
        {"shuffle": True},
        {"shapings": ["drop_truncated", "shuffled"]},
        {"shapings": [{"name": "shuffled"}]},
        {"shapings": [{"name": "grpojax.reward:shuffled"}]},
    ],
)
@pytest.mark.usefixtures("quick")
def test_a_negative_control_is_called_one(tmp_path, reward):
    run = configured(tmp_path / "run", {**COMPOSED, "reward": reward})
    assert "negative control" in top_of(report_text(run))


@pytest.mark.parametrize(
    "reward",
    [
        {"shuffle": False},
        {"shapings": ["drop_truncated"]},
        {"weights": {"shuffled": 1}},
    ],
)
@pytest.mark.usefixtures("quick")
def test_other_rewards_are_no_negative_control(tmp_path, reward):
    run = configured(tmp_path / "run", {**COMPOSED, "reward": reward})
    assert "negative control" not in report_text(run)


@pytest.mark.usefixtures("quick")
def test_a_run_without_a_recipe_reads_well(tmp_path):
    text = report_text(configured(tmp_path / "run", VALUES))
    for part in (
        "Model `Transformer`, task `GSM8K`, algorithm `Algorithm`, `16` prompts per "
        "step, `4` completions per prompt.",
        "Yes, accuracy rose.",
        "40 steps in 93.5 s",
    ):
        assert part in unescaped(text)
    assert "policy.config.window: null\n" in text
    assert not re.search(r"None| recipe|grpojax (train|evaluate)", text)


@pytest.mark.usefixtures("quick")
def test_an_unfinished_run_without_a_recipe_is_resumed_by_its_script(tmp_path):
    text = report_text(configured(tmp_path / "run", VALUES, last=12))
    assert "Its last step is 12. It is still running" in top_of(text)
    assert "script that started it: `grpojax.fit(..., resume=True)`" in text
    assert not re.search(r"None|grpojax train", text)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "The configuration was not recorded."),
        ({"note": "first try"}, "`config.yaml` names no model, task or algorithm."),
        ({"run": None, "model": None}, "names no model"),
        ({"run": {"steps": "many"}, "model": ["a"]}, "Model `[a]`."),
    ],
)
@pytest.mark.usefixtures("quick")
def test_any_mapping_is_a_configuration(tmp_path, config, sentence):
    text = report_text(configured(tmp_path / "run", config))
    assert sentence in top_of(text)
    assert "None" not in text


@pytest.mark.usefixtures("quick")
def test_runs_without_a_seed_may_be_repeats(tmp_path):
    runs = [configured(tmp_path / name, VALUES) for name in ("one", "two")]
    text = unescaped(write_report(runs, tmp_path / "out").read_text())
    assert "The recorded settings of the runs are equal." in text
    assert [row["seeds"] for row in table_after(text, "Over seeds")] == ["1"]
    assert "without a recorded seed, which may be repeats: only the first" in text
    assert [row["seed"] for row in table_after(text, "All runs")] == ["-", "-"]
    assert "None" not in text


@pytest.mark.usefixtures("quick")
def test_a_seed_of_values_is_a_seed(tmp_path):
    runs = [
        configured(tmp_path / f"{seed}", {**VALUES, "seed": seed}) for seed in range(3)
    ]
    text = write_report(runs, tmp_path / "out").read_text()
    assert "The runs differ only in the seed." in text
    assert [row["seeds"] for row in table_after(text, "Over seeds")] == ["3"]


@pytest.mark.usefixtures("quick")
def test_the_learning_rate_has_a_panel(tmp_path):
    run = write_run(tmp_path / "run")
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line["learning_rate"] = 1e-4 / line["step"]
    write_lines(run / "metrics.jsonl", lines)
    report = write_report([run])
    panels = {panel["name"]: panel for panel in embedded(report)["panels"]}
    assert panels["learning-rate"]["section"] == "Update"
    (curve,) = panels["learning-rate"]["curves"]
    assert curve["values"] == pytest.approx([x["learning_rate"] for x in lines], 1e-5)
    assert "![Learning rate](report_files/learning-rate.svg)" in report.read_text()


def test_settings_are_written_as_calls():
    part = {"name": "a", "x": {"name": "b"}, "y": [1, None, "c"]}
    assert setting_text(part) == "a(x=b, y=[1, null, c])"
    assert setting_text({"x": True}) == "x=true"
