"""A report contains what its run's files contain, and nothing else."""

import json
import subprocess
import sys

import pytest

from grpojax.runs.reports import write_report
from grpojax.runs.reports.page.page import page_rows
from grpojax.runs.reports.read.run import read_run

from .fixtures import (
    embedded,
    report_files,
    report_text,
    table_after,
    unescaped,
    write_lines,
    write_run,
)


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = write_run(tmp_path / "run")
    first = report_files(write_report([run]))
    # In another process: another hash seed, and matplotlib anew.
    subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(run), str(tmp_path / "again")],
        check=True,
    )
    assert report_files(tmp_path / "again" / "report.md") == first
    assert len(first) > 15


_ELSEWHERE = """
import sys
from grpojax.runs.reports import write, write_report
write_report([sys.argv[1]], sys.argv[2])
assert "jax" not in sys.modules, "a report needs no JAX"
"""


@pytest.mark.usefixtures("quick")
def test_the_overview_has_configuration_and_result(tmp_path):
    text = report_text(write_run(tmp_path / "run"))
    top = unescaped(text.split("## ")[0])
    for part in ("gsm8k-tiny", "word-problems", "grpo", "5e-05", "Seed `0`"):
        assert part in top
    assert "Yes, accuracy rose." in top and "n = 200 each" in top
    assert "35.0%" in top and "80.0%" in top and "+45.0 points" in top
    assert "Newcombe" in top and "excludes zero change" in top
    assert "majority_answer" in top and "6.0%" in top
    assert "did not finish" not in text
    assert "40 of 40 steps in 93.5 s" in text


@pytest.mark.usefixtures("quick")
def test_its_numbers_are_those_of_the_files(tmp_path):
    run = write_run(tmp_path / "run")
    text = report_text(run)
    asked = [
        json.loads(x) for x in (run / "evaluations.jsonl").read_text().splitlines()
    ]
    rows = table_after(text, "Evaluations")
    accuracies = [row for row in rows if row["number"] == "accuracy"]
    for record, row in zip(asked, accuracies, strict=True):
        assert int(row["step"]) == record["step"] and int(row["n"]) == record["n"]
        ends = (row["value"], row["95% from"], row["to"])
        expected = (record["accuracy"], *record["interval"])
        assert [float(x) for x in ends] == pytest.approx(expected, abs=5e-5)
    metrics = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    numbers = {(x["panel"], x["curve"]): x for x in table_after(text, "Numbers")}
    for key, name in (
        (("Reward", "mean total"), "reward"),
        (("Reward components", "format"), "rewards/format/mean"),
        (("Entropy", "mean over tokens"), "entropy"),
        (("KL to the reference", "mean over tokens"), "kl"),
        (("Gradient norm", "before clipping"), "grad_norm"),
        (("Time per step and phase", "rollout"), "rollout_time"),
    ):
        values = [x[name] for x in metrics if x[name] is not None]
        expected = (values[0], values[-1], min(values), max(values), len(values))
        row = numbers[key]
        found = [row[x] for x in ("first", "last", "smallest", "largest", "steps")]
        assert [float(x) for x in found] == pytest.approx(expected, rel=1e-5)
    speeds = [x["num_tokens"] / x["step_time"] for x in metrics]
    found = float(numbers["Tokens per second", "sampled"]["last"])
    assert found == pytest.approx(speeds[-1], rel=1e-5)


@pytest.mark.usefixtures("quick")
def test_the_page_has_the_same_numbers(tmp_path):
    run = write_run(tmp_path / "run")
    panels = {x["name"]: x for x in embedded(write_report([run]))["panels"]}
    metrics = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    (curve,) = panels["gradient"]["curves"]
    assert curve["values"][6] is None  # It was not finite.
    assert curve["values"][:6] == pytest.approx(
        [x["grad_norm"] for x in metrics[:6]], rel=1e-5
    )
    held_out = panels["accuracy"]["curves"][0]
    assert held_out["steps"] == [0, 20, 40]
    low = json.loads((run / "evaluations.jsonl").read_text().splitlines()[0])[
        "interval"
    ][0]
    assert held_out["low"][0] == pytest.approx(low, rel=1e-5)


@pytest.mark.usefixtures("quick")
def test_every_metric_is_drawn_and_absent_ones_are_named(tmp_path):
    run = write_run(tmp_path / "run")
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["kl"]
        line["my/metric"] = 1.5
    write_lines(run / "metrics.jsonl", lines)
    text = report_text(run)
    missing = text.split("## Not recorded\n\n")[1].split("\n\n")[0]
    assert missing == "- KL to the reference."
    assert "![my/metric](report_files/other-1.svg)" in text


@pytest.mark.usefixtures("quick")
def test_completions_are_embedded_as_text(tmp_path):
    run = write_run(tmp_path / "run")
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)><!--"
    record = json.loads((run / "completions.jsonl").read_text().splitlines()[0])
    record["prompt"] = hostile
    record["samples"][0] |= {"text": hostile, "pieces": ["</scr", "ipt>"]}
    write_lines(run / "completions.jsonl", [record])
    report = write_report([run])
    page = (run / "report.html").read_text()
    assert page.count("<script") == 2 and page.count("</script>") == 2
    assert "<img" not in page and "<!--" not in page
    row = embedded(report)["completions"][0]
    assert row["prompt"] == hostile and row["samples"][0]["text"] == hostile
    # A log-probability a token, or none at all: two pieces have not eleven.
    assert row["samples"][0]["log_prob"] == [None, None]


@pytest.mark.usefixtures("quick")
def test_a_long_run_fits_a_page(tmp_path):

    run = read_run(write_run(tmp_path / "run"))
    rows = page_rows(run, characters=6000)
    assert 1 <= len(rows) < len(run.completions)
    assert len(page_rows(run)) == len(run.completions)


@pytest.mark.usefixtures("quick")
def test_invalid_runs_are_rejected(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(ValueError, match="needs a run"):
        write_report([])
    with pytest.raises(ValueError, match="one directory twice"):
        write_report([run, run], tmp_path / "out")
    with pytest.raises(ValueError, match="no `out`"):
        write_report([run, write_run(tmp_path / "other")])
    with pytest.raises(FileNotFoundError, match="check the path"):
        write_report([tmp_path / "nowhere"])
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick")
def test_an_earlier_report_is_replaced(tmp_path):
    run = write_run(tmp_path / "run")
    write_report([run])
    assert (run / "report_files" / "kl.svg").exists()
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    write_lines(run / "metrics.jsonl", [{**x, "kl": None} for x in lines])
    for line in lines:
        del line["kl"]
    write_lines(run / "metrics.jsonl", lines)
    write_report([run])
    assert not (run / "report_files" / "kl.svg").exists()
