import os
import re
import subprocess
from pathlib import Path

import pytest

from grpojax.runs.distributed.preemption import EXIT_PREEMPTED


SCRIPTS = sorted((Path(__file__).parents[2] / "examples" / "slurm").glob("*.sbatch"))
SLURM = {"SLURM_JOB_ID": "41", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "3"}
OUT = {"single_node": "run", "seeds": "run/seed-3", "many_nodes": "run"}
JOB = {"single_node": "41", "seeds": "40_3", "many_nodes": "41"}
SRUN = {
    "single_node": ["--kill-on-bad-exit=1"],
    "seeds": ["--kill-on-bad-exit=1"],
    "many_nodes": ["--kill-on-bad-exit=0", "--wait=120"],
}
SETS = {
    "single_node": [],
    "seeds": ["run.seed=3"],
    "many_nodes": ["distributed.processes=auto", "mesh.fsdp=-1"],
}

each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@pytest.fixture
def slurm(tmp_path):
    """Runs a script where srun and scontrol write down what they were called with."""
    stubs = tmp_path / "bin"
    stubs.mkdir()

    def run(script, *arguments, code=0, signal=False, requeue=0):
        bodies = {
            "srun": f"{'kill -TERM $PPID' if signal else ''}\nexit {code}",
            "scontrol": f"exit {requeue}",
        }
        for name, body in bodies.items():
            stub = f'#!/bin/bash\nprintf "%s\\n" {name} "$@" >> "$CALLS"\n{body}\n'
            (stubs / name).write_text(stub)
            (stubs / name).chmod(0o755)
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        path = f"{stubs}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **SLURM, "PATH": path, "CALLS": str(calls)}
        done = subprocess.run(
            ["bash", script, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


def train(script, *more):
    options = ["srun", *SRUN[script.stem], "grpojax", "train", "my recipe.yaml"]
    sets = [word for pair in SETS[script.stem] for word in ("--set", pair)]
    return [*options, "--out", OUT[script.stem], *sets, *more]


def test_there_are_scripts():
    assert {script.stem for script in SCRIPTS} == OUT.keys()


@each
def test_syntax(script):
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text().splitlines()
    options = [line for line in lines if line.startswith("#SBATCH")]
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in options)
    # Slurm reads no options after the first command.
    first = next(n for n, line in enumerate(lines) if line and line[0] != "#")
    assert all(lines.index(option) < first for option in options)
    assert "#SBATCH --requeue" in options
    assert "#SBATCH --signal=TERM@120" in options
    assert f"preempted={EXIT_PREEMPTED}" in lines


@each
def test_a_run_that_ends(slurm, script):
    done, calls = slurm(script, "my recipe.yaml", "run", "--set", "run.steps=5")
    assert done.returncode == 0
    assert calls == train(script, "--set", "run.steps=5")


@each
def test_a_run_that_is_there_is_resumed(slurm, script, tmp_path):
    out = tmp_path / OUT[script.stem]
    out.mkdir(parents=True)
    _, calls = slurm(script, "my recipe.yaml", "run")
    assert calls == train(script)
    (out / "config.yaml").write_text("")
    _, calls = slurm(script, "my recipe.yaml", "run")
    assert calls == train(script, "--resume")


@each
def test_a_run_that_is_pre_empted_is_requeued(slurm, script):
    done, calls = slurm(
        script, "my recipe.yaml", "run", code=EXIT_PREEMPTED, signal=True
    )
    assert calls == [*train(script), "scontrol", "requeue", JOB[script.stem]]
    assert done.returncode == 0
    assert "back into the queue" in done.stdout


@each
@pytest.mark.parametrize("code, requeue", [(1, 0), (137, 0), (EXIT_PREEMPTED, 1)])
def test_a_run_that_fails_is_not_taken_for_one_that_ended(slurm, script, code, requeue):
    done, calls = slurm(script, "my recipe.yaml", "run", code=code, requeue=requeue)
    assert done.returncode == code
    assert ("scontrol" in calls) == (code == EXIT_PREEMPTED)


@each
def test_what_is_missing_is_said(slurm, script):
    done, calls = slurm(script, "recipe.yaml")
    assert done.returncode == 2 and calls == []
    assert done.stderr.startswith(f"usage: sbatch {script.name} RECIPE DIR")
