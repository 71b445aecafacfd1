"""The installed command, in a working directory that has modules of the user's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = """
import sys
from grpojax.__main__ import main
sys.exit(main())
"""

TASK = """
def build(data, tokenizer, *, horizon, held_out):
    raise ValueError(f"the task was found, with {data} and {horizon}")
"""

PARTS = """
from grpojax import update

def surrogate(*, low):
    print("the part was found, with", low)
    return update.Clip(low)
"""


@pytest.fixture
def grpojax(tmp_path):
    """Runs `grpojax` as an installed script does, from an empty directory."""
    script = tmp_path / "bin" / "grpojax"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    work = tmp_path / "work"
    work.mkdir()
    (work / "mytask.py").write_text(TASK)
    (work / "myparts.py").write_text(PARTS)
    root = str(Path(__file__).resolve().parents[3])

    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(script), *argv],
            cwd=work,
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
        )

    return run


def test_tasks_and_parts_are_found_in_the_working_directory(grpojax, model):
    found = grpojax(
        *("train", "--set", "data.task=mytask:build", "--set", "data.rows=3"),
        *("--set", "algorithm.surrogate={name: 'myparts:surrogate', low: 0.1}"),
        *("--set", f"model.path={model}"),
    )
    assert found.returncode == 2
    assert "the task was found, with {'rows': 3} and 40" in found.stderr
    assert "the part was found, with 0.1" in found.stdout
    missing = grpojax("train", "--set", "data.task=other:build")
    assert missing.returncode == 2
    assert "no `build` in a module `other`" in missing.stderr
