"""Versions, device and commit in a summary."""

import subprocess

import jax
import pytest

from grpojax.runs.distributed import mesh
from grpojax.runs.distributed.provenance import commit_of, provenance


def git(folder, *words):
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return folder


@pytest.mark.parametrize("state", ["branch", "packed", "detached", "worktree"])
def test_the_commit_is_that_of_git(checkout, state):
    expected = git(checkout, "rev-parse", "HEAD")
    place = checkout
    if state == "packed":
        git(checkout, "pack-refs", "--all")
    if state == "detached":
        git(checkout, "checkout", "-q", "--detach")
    if state == "worktree":
        place = checkout.parent / "tree"
        git(checkout, "worktree", "add", "-q", str(place), "-b", "other")
        git(checkout, "pack-refs", "--all")
    (place / "inner").mkdir()
    assert commit_of(place) == commit_of(place / "inner") == expected


def test_without_a_checkout_there_is_none(tmp_path):
    assert commit_of(tmp_path) is None
    (tmp_path / ".git").write_bytes(b"\xff\xfe")
    assert commit_of(tmp_path) is None


def test_versions():
    found = provenance()
    assert found["jax"] == jax.__version__ and found["device"] == "cpu"
    assert set(found) == {"python", "jax", "grpojax", "device", "commit"}


def test_a_platform_that_is_not_there_is_said(monkeypatch):
    def none():
        raise RuntimeError("Unable to initialize backend 'tpu'")

    monkeypatch.setattr(jax, "devices", none)
    with pytest.raises(ValueError, match="backend 'tpu'. Check the variable JAX_PLAT"):
        mesh.check_devices()


def test_64_bits_are_refused():
    with jax.enable_x64(True), pytest.raises(ValueError, match="unset JAX_ENABLE_X64"):
        mesh.check_bits()
    mesh.check_devices()
