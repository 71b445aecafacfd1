"""Memory that a compiler has freed is returned to the system."""

import subprocess
import sys

import pytest


RESIDENT = """
import pathlib, resource
from grpojax.runs.training.devices import allocator

def resident():
    pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()

pieces = [bytes(2000) for _ in range(100_000)]
last = bytes(2000)  # Above all others: they cannot be given back from the end.
del pieces
before = resident()
allocator.give_back()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_freed_memory_is_returned_to_the_system():
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) > 150e6
