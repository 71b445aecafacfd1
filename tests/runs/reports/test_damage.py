"""Runs that are unfinished, old, damaged or incomplete."""

import shutil

import pytest

from .fixtures import report_text, write_run


@pytest.mark.parametrize("kind", ["preempted", "stopped", "failed"])
@pytest.mark.usefixtures("quick")
def test_an_unfinished_run_is_reported_at_the_top(tmp_path, kind):
    event = {"step": 12, "kind": kind, "message": "SIGTERM came.", "time": 1.0}
    run = write_run(tmp_path / "run", last=12, events=[event], status=kind)
    text = report_text(run)
    first = text.split("\n\n")[1]
    assert first.startswith("> **This run did not finish.** Its last step is 12 of 40.")
    assert f"It was {kind} at step 12: SIGTERM came." in first
    assert "Whether accuracy improved is not known" in text
    assert f"    grpojax train --out {run} --resume\n" in text
    assert "Checkpoints of step 5" in text
    page = (run / "report.html").read_text()
    assert page.index("did not finish") < page.index("gsm8k-tiny")


@pytest.mark.usefixtures("quick")
def test_a_killed_run_has_no_recorded_reason(tmp_path):
    text = report_text(write_run(tmp_path / "run", last=12))
    assert "It is still running, or was killed" in text.split("\n\n")[1]


@pytest.mark.usefixtures("quick")
def test_a_resumed_run_is_not_reported_as_preempted(tmp_path):
    kinds = ("preempted", "resume", "checkpoint")
    events = [{"step": 12, "kind": kind, "message": "", "time": 1.0} for kind in kinds]
    text = report_text(write_run(tmp_path / "run", last=15, events=events))
    assert "It is still running, or was killed" in text.split("\n\n")[1]


@pytest.mark.usefixtures("quick")
def test_complete_with_missing_steps_is_inconsistent(tmp_path):
    run = write_run(tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:30]))
    assert "inconsistent" in report_text(run).split("\n\n")[1]


@pytest.mark.usefixtures("quick")
def test_an_old_run_without_evaluations_is_read_from_its_summary(tmp_path):
    run = write_run(tmp_path / "run")
    for name in ("evaluations.jsonl", "completions.jsonl", "events.jsonl"):
        (run / name).unlink()
    text = report_text(run)
    assert "**35.0%**" in text and "**80.0%**" in text and "n = 200 each" in text
    assert "No trivial baseline was recorded" in text


NAMES = ("config.yaml", "metrics.jsonl", "evaluations.jsonl", "summary.json")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "noise", "folder"])
@pytest.mark.usefixtures("quick")
def test_a_damaged_file_is_named_and_never_fatal(tmp_path, name, damage):
    run = write_run(tmp_path / "run")
    path, content = run / name, (run / name).read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        half = content[: len(content) // 2].rstrip(b"\n}")
        path.write_bytes(
            {"empty": b"", "truncated": half, "noise": b"\xff\x00[1]\n"}[damage]
        )
    text = report_text(run)
    named = "## Missing or damaged" in text and f"`{name}`" in text
    # An empty JSONL file is a run that had not come that far; so is half of a YAML.
    assert (
        named
        or (damage, path.suffix) in {("empty", ".jsonl"), ("truncated", ".yaml")}
        or (damage == "missing" and name == "evaluations.jsonl")
    )
    if name == "summary.json":
        assert "did not finish" in text


@pytest.mark.usefixtures("quick")
def test_a_run_with_only_a_recipe_has_no_steps(tmp_path):
    run = write_run(tmp_path / "run")
    for child in run.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        elif child.name != "config.yaml":
            child.unlink()
    text = report_text(run)
    assert "Its last step is 0 of 40" in text and "No evaluation was recorded" in text
