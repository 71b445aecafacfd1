"""Runs that are unfinished, old, damaged or incomplete."""

import json
import shutil

import pytest

from grpojax.runs.io.integrity import checksums

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


DEEP, LONG = "[" * 100_000, '{"step": 1, "reward": ' + "9" * 4000 + "}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [DEEP, LONG, "a: &a [1]\nb: [*a, *a, *c]"])
@pytest.mark.usefixtures("quick")
def test_what_no_parser_takes_is_named(tmp_path, name, content):
    run = write_run(tmp_path / "run")
    (run / name).write_text(content + "\n")
    text = report_text(run)
    assert f"`{name}`" in text.partition("## Missing or damaged")[2] or content == LONG


def recorded(run, *, complete=True):
    """The run with checksums in its summary, as it writes them itself."""
    files = {
        x.name: checksums.Checksum.of_file(x) for x in run.iterdir() if x.is_file()
    }
    del files["summary.json"]
    values = json.loads((run / "summary.json").read_text())
    values |= {"complete": complete, checksums.CHECKSUMS: checksums.to_json(files)}
    (run / "summary.json").write_text(json.dumps(checksums.with_checksum(values)))
    return run


@pytest.mark.usefixtures("quick")
def test_an_intact_run_has_nothing_missing(tmp_path):
    text = report_text(recorded(write_run(tmp_path / "run")))
    assert "Yes, accuracy rose" in text and "Missing or damaged" not in text


CHECKSUMS = ("config.yaml", "metrics.jsonl", "evaluations.jsonl", "completions.jsonl")


@pytest.mark.parametrize("name", CHECKSUMS)
@pytest.mark.parametrize("damage", ["digit", "missing", "lines", "double", "foreign"])
@pytest.mark.usefixtures("quick")
def test_what_is_not_as_it_was_written_is_named(tmp_path, name, damage):
    run = recorded(write_run(tmp_path / "run"))
    content = (run / name).read_bytes()
    lines = content.splitlines(keepends=True)
    other = write_run(tmp_path / "other", seed=5, before=60)
    changed = {
        "digit": content.replace(b"0", b"1", 1),
        "lines": b"".join(lines[:-1]),
        "double": b"".join([*lines, lines[-1]]),
        "foreign": (other / name).read_bytes(),
    }
    (run / name).unlink()
    if damage != "missing":
        (run / name).write_bytes(changed[damage])
    text = report_text(run)
    flaws = text.partition("## Missing or damaged")[2]
    assert f"`{name}` does not match its checksum in `summary.json`" in flaws
    if name == "evaluations.jsonl":
        assert "Whether accuracy improved is not known" in text
        assert "What was recorded of evaluations is not as it was written" in text


@pytest.mark.usefixtures("quick")
def test_a_summary_that_was_changed_is_not_used(tmp_path):
    run = recorded(write_run(tmp_path / "run"))
    text = (run / "summary.json").read_text()
    (run / "summary.json").write_text(text.replace("93.5", "39.5"))
    said = report_text(run)
    assert "`summary.json` is not as it was written, and is not used" in said
    assert "39.5" not in said


@pytest.mark.usefixtures("quick")
def test_what_a_killed_run_had_not_recorded_is_said(tmp_path):
    run = recorded(write_run(tmp_path / "run", last=12), complete=False)
    assert "Missing or damaged" not in report_text(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 13, "reward": 0.5}) + "\n")
    assert "`metrics.jsonl` has 1 lines without a checksum" in report_text(run)


def test_only_plots_of_reports_are_deleted_and_none_through_a_link(tmp_path):
    run = write_run(tmp_path / "run")
    report_text(run)
    plots = run / "report_files"
    own = sorted(plots.iterdir())[0]
    (plots / "older.svg").write_bytes(own.read_bytes())
    (plots / "mine.svg").write_text("<svg/>")
    away = tmp_path / "away.svg"
    away.write_bytes(own.read_bytes())
    (plots / "link.svg").symlink_to(away)
    report_text(run)
    assert not (plots / "older.svg").exists()
    assert (plots / "mine.svg").exists() and away.exists()
    assert (plots / "link.svg").is_symlink()


@pytest.mark.usefixtures("quick")
def test_no_escape_sequence_reaches_a_report(tmp_path):
    event = {"step": 3, "kind": "warning", "message": "red \x1b[31m\u202e", "time": 1}
    run = write_run(tmp_path / "run\x1b[2J", events=[event])
    record = {
        "step": 1,
        "prompt": "\x1b]0;x\x07",
        "samples": [{"text": "\x1b[2J`\x9b"}],
    }
    (run / "completions.jsonl").write_text(json.dumps(record) + "\n")
    text = report_text(run)
    assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}
    assert "\\x1b" in text
