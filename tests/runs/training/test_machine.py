"""What a machine denies ends a run in a line and 74, and the run goes on afterwards."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from grpojax.runs.distributed.faults import EXIT_MACHINE


pytestmark = pytest.mark.slow


@pytest.fixture
def run(arguments):
    """Runs or resumes a run as a person would, with limits."""

    def act(path, limit=None):
        words = arguments(run__steps=4, checkpoint__every=1)
        command = [sys.executable, "-m", "grpojax", "train", *words]
        return subprocess.run(
            [*command, "--out", str(path), "--resume"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            preexec_fn=None if limit is None else lambda: resource.setrlimit(*limit),
        )

    return act


def check(done, path, *, said):
    assert done.returncode == EXIT_MACHINE, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    lines = [x for x in done.stderr.splitlines() if x.startswith("grpojax: ")]
    assert len(lines) == 1 and said in lines[0], done.stderr
    summary = json.loads((path / "summary.json").read_text())
    assert summary["status"] == "failed" and not summary["complete"]


def finish(run, path):
    done = run(path)
    assert done.returncode == 0, done.stderr
    assert json.loads((path / "summary.json").read_text())["complete"]
    assert not (path / ".reserve").exists()


@pytest.mark.parametrize("kind", ["size=300k", "size=700k", "nr_inodes=30"])
def test_a_full_disk(run, kind, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", kind, "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small disk can only be mounted by an administrator")
    try:
        check(run(disk / "run"), disk / "run", said="disk is full")
        larger = ["mount", "-o", "remount,size=50m,nr_inodes=5000", str(disk)]
        subprocess.run(larger, check=True)
        finish(run, disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_limit_on_the_size_of_files(run, tmp_path):
    path = tmp_path / "run"
    limit = resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY)
    check(run(path, limit), path, said="limit")
    finish(run, path)


def test_a_directory_where_a_file_belongs(run, tmp_path):
    path = tmp_path / "run"
    finish(run, path)
    (path / "events.jsonl").unlink()
    (path / "events.jsonl").mkdir()
    done = run(path)
    assert done.returncode == EXIT_MACHINE and "Traceback" not in done.stderr
    assert "events.jsonl" in done.stderr
    (path / "events.jsonl").rmdir()
    finish(run, path)


def test_a_name_that_is_no_text(run, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    done = run(path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "text in UTF-8" in done.stderr
