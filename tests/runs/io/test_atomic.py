import os

import pytest

from grpojax._files import publish
from grpojax.runs.io.atomic import explain_os_error, write_bytes


def test_a_published_file_is_flushed_before_it_replaces_another(tmp_path, monkeypatch):
    new, old = tmp_path / "new", tmp_path / "old"
    new.write_bytes(b"new")
    old.write_bytes(b"old")
    seen, fsync = [], os.fsync

    def record(descriptor):
        seen.append(old.read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    publish(new, old)
    # The file before the rename, the directory after it.
    assert seen == [b"old", b"new"] and os.listdir(tmp_path) == ["old"]


def test_a_file_that_cannot_be_replaced_is_unchanged(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="Could not write x .* old content is unchanged"):
        write_bytes(tmp_path / "x", b"new")
    assert os.listdir(tmp_path) == ["x"]


def test_the_cause_of_an_error_of_tensorstore(tmp_path):
    with pytest.raises(OSError, match="the disk is full. Nothing was lost. Free some"):
        with explain_os_error("a checkpoint", tmp_path, "Nothing was lost"):
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device")
