"""What a compiler has freed does not stay with the process."""

import subprocess
import sys

import pytest


RESIDENT = """
import pathlib, resource
from grpojax.runs import allocator

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
def test_what_is_free_goes_back_to_the_system():
    said = subprocess.run(
        [sys.executable, "-c", RESIDENT], check=True, capture_output=True, text=True
    )
    assert int(said.stdout) > 150e6
