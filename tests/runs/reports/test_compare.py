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
    # 77.5 ± 4.303 · 2.5 / √3.
    assert rows[0]["95% t-interval"] != "" and "71.3% to 83.7%" in text
    assert table_after(text, "Differences") == [
        {"key": "`optimizer.learning_rate`", "config A": "5e-05", "config B": "1e-05"}
    ]
    assert "config B minus config A: -15.5 points" in text
    assert len(table_after(text, "All runs")) == 6
    names = [x["name"] for x in embedded(report)["panels"]]
    assert len(set(names)) == len(names)


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
