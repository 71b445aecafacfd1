"""Compiled programs that a command keeps: what a second start compiles, and where."""

import collections
import contextlib
import logging
import os
import shutil
from pathlib import Path

import jax
import jax.monitoring
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from grpojax.runs.cli import main as commands
from grpojax.runs.cli.start.compile_cache import cache_folder, keep_programs


@pytest.fixture(scope="module", autouse=True)
def no_programs_of_other_tests(compiled_once):
    for folder in (None, compiled_once):
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()
        if folder is None:
            yield


@contextlib.contextmanager
def counted():
    """Counts what JAX asks of its persistent cache, from no program in memory on."""
    events = collections.Counter()
    listen = lambda event, **_: events.update([event.rpartition("/")[2]])
    jax.clear_caches()
    jax.monitoring.register_event_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_listener(listen)


@pytest.mark.slow
@pytest.mark.parametrize("python", [False, True])
def test_a_second_start_compiles_nothing(arguments, tmp_path, capsys, python):
    """Nor does one whose reward runs Python: no program that is compiled calls it."""
    words = ["train", *arguments(run__steps=1)]
    if python:
        words += ["--set", "reward.terms=['tests.reward.judges:count_letters']"]
        words += ["--set", "reward.weights.count_letters=0.1"]
    started = []
    for _ in range(2):
        with counted() as events:
            assert commands.main(words, {"XDG_CACHE_HOME": str(tmp_path)}) == 0
        started.append((events, capsys.readouterr().out))
    (first, said), (second, again) = started
    # The evaluation, and the step.
    assert first["cache_misses"] >= 2 and "compiled the step in" in said
    assert second["compile_requests_use_cache"] == second["cache_hits"] > 0
    assert second["cache_misses"] == 0 and "read the step from the cache in" in again
    for out in (said, again):
        assert out.count(f"kept in {tmp_path / 'grpojax' / 'programs'}\n") == 1


def test_the_key_and_jax_s_own_configuration_decide(arguments, model, tmp_path, capsys):
    words = ["generate", *arguments(), "--problems", "1", str(model)]
    environment = {"XDG_CACHE_HOME": str(tmp_path / "default")}

    def started(*more: str) -> tuple[str, set[str]]:
        jax.clear_caches()
        assert commands.main([*words, *more], environment) == 0
        return capsys.readouterr().out, set(os.listdir(tmp_path))

    said, made = started("--set", "run.compile_cache=false")
    assert "kept in" not in said and made == set()
    said, made = started("--set", f"run.compile_cache={tmp_path / 'own'}")
    assert f"kept in {tmp_path / 'own'}" in said and made == {"own"}
    programs = {*(tmp_path / "own").glob("*-cache")}
    assert programs
    with counted() as events:
        started("--set", f"run.compile_cache={tmp_path / 'own'}")
    assert events["cache_misses"] == 0 < events["cache_hits"]
    assert {*(tmp_path / "own").glob("*-cache")} == programs
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        said, made = started()
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert "kept in" not in said and made == {"own"}


@pytest.mark.parametrize(
    "setting, environment, system, path",
    [
        (True, {"HOME": "/h"}, "linux", "/h/.cache/grpojax/programs"),
        (True, {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "linux", "/x/grpojax/programs"),
        (True, {"HOME": "/h"}, "darwin", "/h/Library/Caches/grpojax/programs"),
        (True, {"LOCALAPPDATA": "/l"}, "win32", "/l/grpojax/programs"),
        (True, {}, "linux", None),
        (False, {"HOME": "/h"}, "linux", None),
        ("/elsewhere", {"HOME": "/h"}, "linux", "/elsewhere"),
    ],
)
def test_the_folder_follows_the_system_s_convention(setting, environment, system, path):
    found = cache_folder(setting, environment, system)
    assert found == (None if path is None else Path(path))


def compute() -> collections.Counter:
    """Compiles a few small programs."""
    with counted() as events:
        assert jax.jit(lambda x: x * 3 + 1)(jnp.float32(2)) == 7
    return events


def test_a_damaged_entry_costs_a_sentence_and_is_replaced(tmp_path, caplog):
    with keep_programs(tmp_path):
        count = compute()["cache_misses"]
    entries = list(tmp_path.glob("*-cache"))
    assert len(entries) == count > 0
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-20])
    with keep_programs(tmp_path):
        assert compute()["cache_misses"] == count
    assert len(caplog.records) == count
    assert "the program is compiled, and the run goes on" in caplog.text
    with keep_programs(tmp_path):
        events = compute()
    assert events["cache_hits"] == count and len(caplog.records) == count


def test_a_folder_that_cannot_be_written_costs_a_sentence(tmp_path, caplog):
    (tmp_path / "file").touch()
    with keep_programs(tmp_path / "file" / "folder") as used:
        assert used is None and compute()["cache_misses"] == 0
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "NotADirectoryError" in caplog.text and "run.compile_cache" in caplog.text


def test_a_write_that_fails_costs_a_sentence(tmp_path, caplog):
    with keep_programs(tmp_path / "gone"):
        compute()
        shutil.rmtree(tmp_path / "gone")
        compute()
    assert "Error writing" in caplog.text and "the run goes on" in caplog.text


def test_what_was_compiled_long_ago_is_removed(tmp_path):
    old, recent, other = (tmp_path / name for name in ("a-cache", "b-cache", "c"))
    for path in (old, recent, other):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    with keep_programs(tmp_path) as used:
        assert used == tmp_path
    assert set(tmp_path.iterdir()) == {recent, other}
