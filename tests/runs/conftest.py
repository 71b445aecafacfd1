import shutil
import subprocess

import pytest


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for 600 kB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", path]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small disk can only be mounted by an administrator")
    yield path
    subprocess.run(["umount", path], check=True)
