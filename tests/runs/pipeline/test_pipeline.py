"""Pipelines: plans, what is skipped and resumed, failures, SLURM."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpojax.runs.cli import main as commands
from grpojax.runs.io.atomic import lock_directory
from grpojax.runs.io.jsonl import read_tolerant
from grpojax.runs.pipeline import run as pipelines, stages
from grpojax.runs.pipeline.plan import read_plan
from grpojax.runs.recipe.load import dump


FILE = """
out: {out}
recipes: {{short: short.yaml, long: long.yaml}}
tasks:
  few: {{data.train_rows: 16}}
  many: {{data.train_rows: 32}}
seeds: [0, 1]
set: {{optimizer.learning_rate: 1.0e-05, data.system_prompt: "true"}}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "short.yaml").write_text("run: {steps: 1}\n")
    (tmp_path / "long.yaml").write_text("run: {steps: 2}\n")
    path = tmp_path / "pipeline.yaml"
    path.write_text(FILE.format(out=tmp_path / "out"))
    return path


@pytest.fixture
def made(monkeypatch, file):
    """The stages that were run, as `(folder, stage)`; codes of them by folder."""
    ran, codes = [], {}
    cells = {cell.path: cell for cell in read_plan(file).cells}

    def run_stage(stage, environment, *, log):
        del log
        place = "/".join(stage.path.parts[-3:])
        ran.append((place, stage.name))
        stage.path.mkdir(parents=True, exist_ok=True)
        stage.log.write_text("a line\nthe last line\n\n")
        if place in codes:
            return codes[place]
        trained = Path(stage.arguments[1]) if stage.name == "evaluate" else stage.path
        recipe = stages.recipe_of(cells[trained], environment)
        (stage.path / "config.yaml").write_text(dump(recipe))
        summary = {"complete": True, "steps": recipe.run.steps}
        summary |= {"step": recipe.run.steps}
        (stage.path / "summary.json").write_text(json.dumps(summary))
        return 0

    monkeypatch.setattr(pipelines, "run_stage", run_stage)
    return ran, codes


def test_runs_are_recipes_by_tasks_by_seeds(file):
    cells = read_plan(file).cells
    names = ["/".join(cell.path.parts[-3:]) for cell in cells]
    assert names[:3] == ["short/few/seed-0", "short/few/seed-1", "short/many/seed-0"]
    assert len(set(names)) == 8 and [cell.index for cell in cells] == list(range(8))
    recipe = stages.recipe_of(cells[7], {})
    assert (recipe.run.seed, recipe.run.steps) == (1, 2)
    assert recipe.data.option("train_rows") == 32
    assert recipe.data.option("system_prompt") == "true"
    assert recipe.optimizer.learning_rate == 1e-5


def test_what_is_complete_is_skipped_and_the_rest_is_made(file, made):
    ran, _ = made
    page = pipelines.run(read_plan(file), {})
    assert len(ran) == 16 and len(set(ran)) == 16
    assert ran[:2] == [
        ("short/few/seed-0", "train"),
        ("short/few/seed-0.evaluation", "evaluate"),
    ]
    assert page is not None and "8 of 8 runs are finished" in page.read_text()
    assert page.read_text().count('href="short/few/') == 3
    ran.clear()
    report = page.parent / "short/few/seed-0/report.html"
    written = report.stat().st_mtime_ns
    pipelines.run(read_plan(file), {})
    assert ran == [] and report.stat().st_mtime_ns == written
    out = read_plan(file).out
    (out / "long/few/seed-1/summary.json").write_text('{"complete": false}')
    pipelines.run(read_plan(file), {})
    assert ran == [("long/few/seed-1", "train")]
    # Another recipe is no complete run: the command resumes it, or says why not.
    ran.clear()
    (file.parent / "short.yaml").write_text("run: {steps: 3}\n")
    pipelines.run(read_plan(file), {}, only=[1])
    assert ran == [
        ("short/few/seed-1", "train"),
        ("short/few/seed-1.evaluation", "evaluate"),
    ]


def test_a_run_that_fails_is_left_and_named(file, made, capsys):
    ran, codes = made
    codes["short/few/seed-1"] = 3
    assert commands.main(["pipeline", str(file)], {}) == 3
    said = capsys.readouterr()
    assert len(ran) == 15 and said.err.count("\n") == 1
    assert "1 of 8 runs failed" in said.err
    assert "short/few/seed-1: train ended with code 3 (the last line)" in said.err
    assert "7 of 7 runs" in (read_plan(file).out / "index.html").read_text()


def test_a_run_that_is_told_to_leave_ends_the_pipeline(file, made, capsys):
    ran, codes = made
    codes["short/few/seed-1"] = 75
    assert commands.main(["pipeline", str(file)], {}) == 75
    assert ran[-1] == ("short/few/seed-1", "train")
    assert "seed-1: train ended with code 75" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds: [0, 1]", "seeds: 3", "`seeds` is a list. Received 3"),
        ("seeds: [0, 1]", "seeds: [1, 1]", "`seeds` differ. Received [1, 1]"),
        ("seeds: [0, 1]", "seeds: [true]", "`seeds` are integers. Received True"),
        ("seeds:", "seed:", "`seed` is not a key of a pipeline"),
        ("seeds:", "stages: [tarin]\nseeds:", "Received 'tarin'"),
        ("  few:", "  a/b:", "Received 'a/b': rename it"),
        ("short.yaml", "there.yaml", "There is none at 'there.yaml'"),
        ("train_rows: 16", "trian_rows: 16", "short/few/seed-0: `data.trian_rows`"),
        ("out:", "set:\nout:", "the key 'set' is there twice"),
        ("recipes: {short: short.yaml, long: long.yaml}", "recipes:", "a recipe, a"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    file, made, capsys, old, new, words
):
    file.write_text(file.read_text().replace(old, new, 1))
    assert commands.main(["pipeline", str(file)], {}) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 or "twice" in said
    assert not (file.parent / "out").exists() and made[0] == []


def test_a_job_script_of_slurm(file, capsys):
    file.write_text(file.read_text() + "slurm: {time: '8:00:00', exclusive: true}\n")
    assert commands.main(["pipeline", str(file), "--slurm"], {}) == 0
    script = capsys.readouterr().out
    for line in ("--array=0-7", "--requeue", "--time=8:00:00", "--exclusive"):
        assert f"#SBATCH {line}\n" in script
    assert f'pipeline {file} --only "$SLURM_ARRAY_TASK_ID"' in script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
    assert checked.returncode == 0


def test_a_command_is_waited_for_and_its_words_are_kept(tmp_path):
    run = tmp_path / "run"
    stage = stages.Stage("train", run, tmp_path / "run.log", ("said",))
    command = sys.executable, "-c", "import sys; print(sys.argv[1]); sys.exit(7)"
    assert stages.run_stage(stage, os.environ, log=print, command=command) == 7
    assert stages.last_line(stage.log) == "said"
    command = sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"
    assert stages.run_stage(stage, os.environ, log=print, command=command) == 137


def test_a_directory_that_is_being_written_is_waited_for(tmp_path):
    run, said = tmp_path / "run", []
    run.mkdir()
    lock = lock_directory(run)

    def log(line):
        said.append(line)
        os.close(lock)

    stage = stages.Stage("train", run, tmp_path / "run.log", ())
    command = sys.executable, "-c", ""
    assert stages.run_stage(stage, os.environ, log=log, command=command) == 0
    assert len(said) == 1 and f"written by process {os.getpid()}" in said[0]


def test_the_page_on_pipelines_runs(tmp_path, monkeypatch, capsys):
    root = Path(__file__).resolve().parents[3]
    page = (root / "docs" / "pipelines.md").read_text()
    (tmp_path / "examples").symlink_to(root / "examples")
    monkeypatch.chdir(tmp_path)
    (study,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    Path("study.yaml").write_text(study)
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "pipelines.md", "exec"), {})
    assert "out/study/grpo/few/seed-0" in capsys.readouterr().out
    for cell in read_plan("study.yaml").cells:
        assert stages.recipe_of(cell, {}).run.steps == 20


@pytest.mark.slow
def test_killed_five_times_it_ends_as_if_it_had_not_been(tmp_path, settings):
    """Three tasks, two recipes, two seeds; metrics without times, and predictions."""
    shared = dict(pair.split("=", 1) for pair in settings(run__steps=4))
    lines = "".join(f"  {key}: {value}\n" for key, value in shared.items())
    (tmp_path / "grpo.yaml").write_text("run: {checkpoint_every: 1}\n")
    (tmp_path / "dapo.yaml").write_text("run: {checkpoint_every: 1}\nalgorithm: dapo\n")
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        "recipes: [grpo.yaml, dapo.yaml]\n"
        "tasks:\n  few: {data.train_rows: 8}\n  some: {data.train_rows: 12}\n"
        "  many: {}\n"
        f"seeds: [0, 1]\nset:\n{lines}"
    )
    words = [sys.executable, "-m", "grpojax", "pipeline", str(file), "--out"]

    def start(out):
        return subprocess.Popen(
            [*words, out], start_new_session=True, stdout=subprocess.DEVNULL
        )

    assert start(tmp_path / "whole").wait() == 0
    for delay in (5, 20, 35, 50, 65):
        killed = start(tmp_path / "killed")
        time.sleep(delay)
        # Every second time the command that it runs goes on alone.
        os.killpg(killed.pid, signal.SIGKILL) if delay % 2 else killed.kill()
        killed.wait()
    assert start(tmp_path / "killed").wait() == 0
    whole, killed = (
        {cell.path.relative_to(out): cell.path for cell in read_plan(file, out).cells}
        for out in (tmp_path / "whole", tmp_path / "killed")
    )
    assert len(whole) == 12
    for name, path in whole.items():
        for run in (path, path.with_name(f"{path.name}.evaluation")):
            other = killed[name].with_name(run.name)
            assert _facts(run) == _facts(other)
    pages = [(tmp_path / x / "index.html").read_text() for x in ("whole", "killed")]
    assert pages[0].replace("whole", "killed") == pages[1]


def _facts(run):
    """What a run says, without its times, and its model's bytes."""
    records, flaws = [], []
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        found, damaged = read_tolerant(run / name, optional=True)
        flaws += damaged
        for record in found:
            timed = {key for key in record if "time" in key or "second" in key}
            timed |= {key for key in record if key.startswith(("perf/", "memory/"))}
            records.append({k: v for k, v in record.items() if k not in timed})
    files = sorted(
        path for path in run.rglob("*") if {"model", "predictions"} & set(path.parts)
    )
    return records, flaws, [x.read_bytes() for x in files if x.is_file()]
