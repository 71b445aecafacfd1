"""A report says what its run's files say, and nothing that they do not."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grpojax.runs.reports import write, write_report
from grpojax.runs.reports.sections.commands import RESUME

from .fixtures import evaluation, recipe, write_lines, write_predictions, write_run


@pytest.fixture
def quick(monkeypatch):
    """Empty pictures, for the many tests that read no picture."""
    monkeypatch.setattr(write, "plot", lambda panel: panel.name.encode())


def written(report: Path) -> dict[str, bytes]:
    folder = report.parent
    found = [report, folder / "report.html", *(folder / "report_files").iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def text_of(run: Path) -> str:
    return write_report([run]).read_text(encoding="utf-8")


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def table_after(text: str, heading: str) -> list[dict[str, str]]:
    lines = text.split(f"## {heading}\n\n")[1].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    header, _, *body = [[unescaped(cell) for cell in row] for row in rows]
    return [dict(zip(header, row, strict=True)) for row in body]


def embedded(report: Path) -> dict:
    page = (report.parent / "report.html").read_text(encoding="utf-8")
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def test_the_same_run_gives_the_same_bytes(tmp_path):
    run = write_run(tmp_path / "run")
    first = written(write_report([run]))
    # In another process: another hash seed, and matplotlib anew.
    subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(run), str(tmp_path / "again")],
        check=True,
    )
    assert written(tmp_path / "again" / "report.md") == first
    assert len(first) > 15


_ELSEWHERE = """
import sys
from grpojax.runs.reports import write, write_report
write_report([sys.argv[1]], sys.argv[2])
assert "jax" not in sys.modules, "a report needs no JAX"
"""


@pytest.mark.usefixtures("quick")
def test_it_says_what_was_trained_on_what_and_whether_it_worked(tmp_path):
    text = text_of(write_run(tmp_path / "run"))
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
    text = text_of(run)
    asked = [json.loads(x) for x in (run / "evaluations.jsonl").open()]
    rows = table_after(text, "Evaluations")
    accuracies = [row for row in rows if row["number"] == "accuracy"]
    for record, row in zip(asked, accuracies, strict=True):
        assert int(row["step"]) == record["step"] and int(row["n"]) == record["n"]
        ends = (row["value"], row["95% from"], row["to"])
        expected = (record["accuracy"], *record["interval"])
        assert [float(x) for x in ends] == pytest.approx(expected, abs=5e-5)
    metrics = [json.loads(x) for x in (run / "metrics.jsonl").open()]
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
    metrics = [json.loads(x) for x in (run / "metrics.jsonl").open()]
    (curve,) = panels["gradient"]["curves"]
    assert curve["values"][6] is None  # It was not finite.
    assert curve["values"][:6] == pytest.approx(
        [x["grad_norm"] for x in metrics[:6]], rel=1e-5
    )
    held_out = panels["accuracy"]["curves"][0]
    assert held_out["steps"] == [0, 20, 40]
    low = json.loads((run / "evaluations.jsonl").open().readline())["interval"][0]
    assert held_out["low"][0] == pytest.approx(low, rel=1e-5)


@pytest.mark.usefixtures("quick")
def test_every_metric_is_drawn_and_absent_ones_are_named(tmp_path):
    run = write_run(tmp_path / "run")
    lines = [json.loads(x) for x in (run / "metrics.jsonl").open()]
    for line in lines:
        del line["kl"]
        line["my/metric"] = 1.5
    write_lines(run / "metrics.jsonl", lines)
    text = text_of(run)
    missing = text.split("## Not recorded\n\n")[1].split("\n\n")[0]
    assert missing == "- KL to the reference."
    assert "![my/metric](report_files/other-1.svg)" in text


@pytest.mark.parametrize("kind", ["preempted", "stopped", "failed"])
@pytest.mark.usefixtures("quick")
def test_an_unfinished_run_says_so_at_the_top(tmp_path, kind):
    event = {"step": 12, "kind": kind, "message": "SIGTERM came.", "time": 1.0}
    run = write_run(tmp_path / "run", last=12, events=[event], status=kind)
    text = text_of(run)
    first = text.split("\n\n")[1]
    assert first.startswith("> **This run did not finish.** Its last step is 12 of 40.")
    assert f"It was {kind} at step 12: SIGTERM came." in first
    assert "Whether accuracy improved is not known" in text
    assert RESUME.format(directory=run) in text
    assert "Checkpoints of step 5" in text
    page = (run / "report.html").read_text()
    assert page.index("did not finish") < page.index("gsm8k-tiny")


@pytest.mark.usefixtures("quick")
def test_a_killed_run_says_that_nothing_says_why(tmp_path):
    text = text_of(write_run(tmp_path / "run", last=12))
    assert "It is still running, or was killed" in text.split("\n\n")[1]


@pytest.mark.usefixtures("quick")
def test_a_resumed_run_is_not_taken_for_a_preempted_one(tmp_path):
    kinds = ("preempted", "resume", "checkpoint")
    events = [{"step": 12, "kind": kind, "message": "", "time": 1.0} for kind in kinds]
    text = text_of(write_run(tmp_path / "run", last=15, events=events))
    assert "It is still running, or was killed" in text.split("\n\n")[1]


@pytest.mark.usefixtures("quick")
def test_complete_and_short_is_a_contradiction(tmp_path):
    run = write_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:30]))
    assert "inconsistent" in text_of(run).split("\n\n")[1]


@pytest.mark.usefixtures("quick")
def test_no_change_is_not_called_success(tmp_path):
    same = text_of(write_run(tmp_path / "same", before=70, after=74))
    assert "Not significant" in same and "includes zero change" in same
    worse = text_of(write_run(tmp_path / "worse", before=160, after=70))
    assert "No, accuracy fell." in worse


@pytest.mark.usefixtures("quick")
def test_pairs_are_used_where_the_predictions_agree(tmp_path):
    run = write_run(tmp_path / "run", before=70, after=80)
    assert "Newcombe" in text_of(run)
    write_predictions(run, 0, 70, 200)
    write_predictions(run, 40, 80, 200)
    text = unescaped(text_of(run))
    # Ten problems rose and none fell: 2 / 2^10.
    assert "paired t-interval over 200 problems" in text and "p = 0.002" in text
    assert "Yes, accuracy rose." in text and "both exclude zero change" in text
    # Predictions of something else are not paired with these evaluations.
    write_predictions(run, 40, 81, 200)
    assert "Newcombe" in text_of(run)


@pytest.mark.parametrize(
    "changes",
    [{"n": 100}, {"split": "test"}, {"temperature": 0.5}, {"samples": 2}],
)
@pytest.mark.usefixtures("quick")
def test_another_question_is_not_a_baseline(tmp_path, changes):
    run = write_run(tmp_path / "run")
    after = {**evaluation(40, 160, 200), **changes}
    write_lines(run / "evaluations.jsonl", [evaluation(0, 70, 200), after])
    text = text_of(run)
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
    text = unescaped(text_of(run))
    assert "greedy: accuracy rose from **75.0%**" in text
    assert "sampled at temperature 1: accuracy rose from **35.0%**" in text


@pytest.mark.usefixtures("quick")
def test_an_old_run_without_evaluations_is_read_from_its_summary(tmp_path):
    run = write_run(tmp_path / "run")
    for name in ("evaluations.jsonl", "completions.jsonl", "events.jsonl"):
        (run / name).unlink()
    text = text_of(run)
    assert "**35.0%**" in text and "**80.0%**" in text and "n = 200 each" in text
    assert "No trivial baseline was recorded" in text


NAMES = ("config.yaml", "metrics.jsonl", "evaluations.jsonl", "summary.json")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("harm", ["missing", "empty", "cut", "noise", "folder"])
@pytest.mark.usefixtures("quick")
def test_a_harmed_file_is_named_and_never_fatal(tmp_path, name, harm):
    run = write_run(tmp_path / "run")
    path, content = run / name, (run / name).read_bytes()
    path.unlink()
    if harm == "folder":
        path.mkdir()
    elif harm != "missing":
        half = content[: len(content) // 2].rstrip(b"\n}")
        path.write_bytes({"empty": b"", "cut": half, "noise": b"\xff\x00[1]\n"}[harm])
    text = text_of(run)
    named = "## Missing or damaged" in text and f"`{name}`" in text
    # An empty JSONL file is a run that had not come that far; so is half of a YAML.
    assert (
        named
        or (harm, path.suffix) in {("empty", ".jsonl"), ("cut", ".yaml")}
        or (harm == "missing" and name == "evaluations.jsonl")
    )
    if name == "summary.json":
        assert "did not finish" in text


@pytest.mark.usefixtures("quick")
def test_only_a_recipe_is_a_run_that_never_began(tmp_path):
    run = write_run(tmp_path / "run")
    for child in run.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        elif child.name != "config.yaml":
            child.unlink()
    text = text_of(run)
    assert "Its last step is 0 of 40" in text and "No evaluation was recorded" in text


@pytest.mark.usefixtures("quick")
def test_completions_are_embedded_as_text(tmp_path):
    run = write_run(tmp_path / "run")
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)><!--"
    record = json.loads((run / "completions.jsonl").open().readline())
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
    from grpojax.runs.reports.page import page_rows
    from grpojax.runs.reports.read import read_run

    run = read_run(write_run(tmp_path / "run"))
    rows = page_rows(run, "run", characters=6000)
    assert 1 <= len(rows) < len(run.completions)
    assert len(page_rows(run, "run")) == len(run.completions)


@pytest.mark.usefixtures("quick")
def test_seeds_are_averaged_and_recipes_are_told_apart(tmp_path):
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
def test_one_seed_twice_is_no_evidence(tmp_path):
    runs = [write_run(tmp_path / name, seed=3) for name in ("one", "two")]
    text = unescaped(write_report(runs, tmp_path / "out").read_text())
    assert [row["seeds"] for row in table_after(text, "Over seeds")] == ["1"]
    assert "none (one seed)" in text and "only the first counts" in text


@pytest.mark.usefixtures("quick")
def test_different_questions_are_not_averaged(tmp_path):
    runs = [
        write_run(tmp_path / "one", seed=0),
        write_run(tmp_path / "two", seed=1, before=35, after=80, n=100),
    ]
    text = write_report(runs, tmp_path / "out").read_text()
    assert "not compared" in text


@pytest.mark.usefixtures("quick")
def test_it_refuses_what_it_cannot_report(tmp_path):
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
def test_an_earlier_report_leaves_nothing_behind(tmp_path):
    run = write_run(tmp_path / "run")
    write_report([run])
    assert (run / "report_files" / "kl.svg").exists()
    lines = [json.loads(x) for x in (run / "metrics.jsonl").open()]
    write_lines(run / "metrics.jsonl", [{**x, "kl": None} for x in lines])
    for line in lines:
        del line["kl"]
    write_lines(run / "metrics.jsonl", lines)
    write_report([run])
    assert not (run / "report_files" / "kl.svg").exists()


@pytest.mark.usefixtures("quick")
def test_a_negative_control_is_called_one(tmp_path):
    run = write_run(tmp_path / "run", changes={"reward__shuffle": True})
    assert recipe(reward__shuffle=True)["reward"]["shuffle"] is True
    assert "negative control" in text_of(run)
