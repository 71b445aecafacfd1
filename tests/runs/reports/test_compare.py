"""Before against after, and several runs over their seeds."""

import pytest

from grpojax.runs.reports import write_report

from .fixtures import (
    embedded,
    evaluation,
    report_text,
    table_after,
    unescaped,
    write_lines,
    write_predictions,
    write_run,
)


@pytest.mark.usefixtures("quick")
def test_an_insignificant_change_is_no_success(tmp_path):
    same = report_text(write_run(tmp_path / "same", before=70, after=74))
    assert "Not significant" in same and "includes zero change" in same
    worse = report_text(write_run(tmp_path / "worse", before=160, after=70))
    assert "No, accuracy fell." in worse


@pytest.mark.usefixtures("quick")
def test_pairs_are_used_where_the_predictions_agree(tmp_path):
    run = write_run(tmp_path / "run", before=70, after=80)
    assert "Newcombe" in report_text(run)
    write_predictions(run, 0, 70, 200)
    write_predictions(run, 40, 80, 200)
    text = unescaped(report_text(run))
    # Ten problems rose and none fell: 2 / 2^10.
    assert "paired t-interval over 200 problems" in text and "p = 0.002" in text
    assert "Yes, accuracy rose." in text and "both exclude zero change" in text
    # Predictions of something else are not paired with these evaluations.
    write_predictions(run, 40, 81, 200)
    assert "Newcombe" in report_text(run)


@pytest.mark.parametrize(
    "changes",
    [{"n": 100}, {"split": "test"}, {"temperature": 0.5}, {"samples": 2}],
)
@pytest.mark.usefixtures("quick")
def test_another_protocol_is_not_a_baseline(tmp_path, changes):
    run = write_run(tmp_path / "run")
    after = {**evaluation(40, 160, 200), **changes}
    write_lines(run / "evaluations.jsonl", [evaluation(0, 70, 200), after])
    text = report_text(run)
    assert "Whether accuracy improved is not known" in text and "Yes" not in text
    assert "cannot compare" in text or "never compared" in text


@pytest.mark.usefixtures("quick")
def test_greedy_is_compared_with_greedy(tmp_path):
    run = write_run(tmp_path / "run")
    lines = [
        evaluation(step, right, 200, mode=mode)
        for step, mode, right in (
            (0, "greedy", 150),
            (0, "sampled", 70),
            (40, "sampled", 90),
            (40, "greedy", 152),
        )
    ]
    write_lines(run / "evaluations.jsonl", lines)
    text = unescaped(report_text(run))
    assert "greedy: accuracy rose from **75.0%**" in text
    assert "sampled at temperature 1: accuracy rose from **35.0%**" in text


@pytest.mark.usefixtures("quick")
def test_seeds_are_averaged_and_configurations_compared(tmp_path):
    runs = [
        write_run(tmp_path / f"a{seed}", seed=seed, after=after)
        for seed, after in enumerate((160, 150, 155))
    ]
    slow = {"optimizer__learning_rate": 1e-05}
    runs += [
        write_run(tmp_path / f"b{seed}", seed=seed, after=after, changes=slow)
        for seed, after in enumerate((120, 128))
    ]
    runs.append(write_run(tmp_path / "killed", seed=7, last=12))
    report = write_report(runs, tmp_path / "out")
    text = unescaped(report.read_text())
    assert text.split("\n\n")[1].startswith("> **killed did not finish**")
    rows = table_after(text, "Over seeds")
    assert [row["seeds"] for row in rows] == ["3", "2"]
    assert [row["after"] for row in rows] == ["77.5%", "62.0%"]
    # Wilson's, of 837 trials and with 4.303 for z.
    assert rows[0]["95% interval"] == "70.7% to 83.1%"
    names = ["learning_rate=5e-05", "learning_rate=1e-05"]
    assert [row["config"] for row in rows] == names
    assert table_after(text, "Differences") == [
        {"key": "`optimizer.learning_rate`", names[0]: "5e-05", names[1]: "1e-05"}
    ]
    # Seeds 0 and 1, which both have: -20 and -11.
    assert f"{names[1]} minus {names[0]}: -15.5 points, 95% interval -72.7 to" in text
    assert "paired by seed, over 2 seeds" in text
    assert len(table_after(text, "All runs")) == 6
    names = [x["name"] for x in embedded(report)["panels"]]
    assert len(set(names)) == len(names)


@pytest.mark.usefixtures("quick")
def test_runs_without_a_common_seed_are_no_pairs(tmp_path):
    runs = [write_run(tmp_path / f"a{seed}", seed=seed, after=160) for seed in (0, 1)]
    slow = {"optimizer__learning_rate": 1e-05}
    runs += [
        write_run(tmp_path / f"b{seed}", seed=seed, after=after, changes=slow)
        for seed, after in ((2, 190), (3, 199))
    ]
    text = unescaped(write_report(runs, tmp_path / "out").read_text())
    assert "Welch's, over seeds" in text and "paired by seed" not in text
    for row in table_after(text, "Over seeds"):
        low, high = (float(x.rstrip("%")) for x in row["95% interval"].split(" to "))
        assert 0 <= low <= high <= 100


@pytest.mark.usefixtures("quick")
def test_configurations_that_differ_in_much_have_letters(tmp_path):
    changes = {f"rollout__{x}": 2 for x in ("prompts", "group", "max_new_tokens")}
    changes |= {"optimizer__learning_rate": 1e-05, "algorithm__beta": 0.5}
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", changes=changes)]
    text = unescaped(write_report(runs, tmp_path / "out").read_text())
    assert "- A: " in text and "- B: prompts=2" in text


@pytest.mark.usefixtures("quick")
def test_evaluations_by_reward_are_compared_as_rewards(tmp_path):
    """Nothing says which answers are right, and the rewards are no shares."""

    def judged(step: int, value: float) -> dict:
        reward = {"value": value, "n": 200, "interval": [value - 0.5, value + 0.5]}
        metrics = {"reward": reward, "rewards/brief": reward}
        made = evaluation(step, 0, 200, name="style", metrics=metrics, baselines={})
        return {x: y for x, y in made.items() if x not in ("accuracy", "interval")}

    run = write_run(tmp_path / "run")
    lines = [evaluation(0, 70, 200), evaluation(40, 160, 200)]
    write_lines(run / "evaluations.jsonl", [*lines, judged(0, -3.0), judged(40, 2.5)])
    report = write_report([run])
    text = unescaped(report.read_text())
    assert "Style, sampled at temperature 1: mean reward rose from **-3**" in text
    assert "The difference is +5.5, 95% interval +4.793 to +6.207" in text
    panels = {x["name"]: x for x in embedded(report)["panels"]}
    (curve,) = panels["evaluation-reward"]["curves"]
    assert (curve["steps"], curve["values"]) == ([0, 40], [-3.0, 2.5])
    assert len(panels["accuracy"]["curves"]) == 2  # Held out, and the training one.
    rows = table_after(text, "Evaluations")
    names = [(row["step"], row["number"]) for row in rows]
    assert ("0", "mean reward") in names and ("0", "reward") not in names


@pytest.mark.usefixtures("quick")
def test_one_fact_has_one_row(tmp_path):
    """An accuracy is pass@1 and mean@K, and a baseline is that of every step."""
    rows = table_after(report_text(write_run(tmp_path / "run")), "Evaluations")
    found = [(row["step"], row["number"]) for row in rows]
    expected = [(step, "accuracy") for step in ("0", "20", "40")]
    assert found == [*expected, ("all", "baseline majority_answer")]


@pytest.mark.usefixtures("quick")
def test_a_repeated_seed_counts_once(tmp_path):
    runs = [write_run(tmp_path / name, seed=3) for name in ("one", "two")]
    text = unescaped(write_report(runs, tmp_path / "out").read_text())
    assert [row["seeds"] for row in table_after(text, "Over seeds")] == ["1"]
    assert "none (one seed)" in text and "only the first counts" in text


@pytest.mark.usefixtures("quick")
def test_different_protocols_are_not_averaged(tmp_path):
    runs = [
        write_run(tmp_path / "one", seed=0),
        write_run(tmp_path / "two", seed=1, before=35, after=80, n=100),
    ]
    text = write_report(runs, tmp_path / "out").read_text()
    assert "not compared" in text
