"""A process that is looked after ends its parent as it ends itself."""

import os
import signal
import subprocess
import sys
import time

import pytest

from grpojax.runs.distributed.supervise import EXIT_PEER


BEGIN = """
import os, signal, sys, time
from grpojax.runs.distributed.supervise import fork_supervised
fork_supervised()
print(os.getpid(), flush=True)
"""


def start(body):
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + body],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def alive(child):
    try:
        os.kill(child, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    "body, code, said",
    [
        ("pass", 0, ""),
        ("sys.exit(75)", 75, ""),
        ("raise ValueError('no good')", 1, "ValueError: no good"),
        ("os.abort()", EXIT_PEER, "another process of the run has died"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "was ended by SIGKILL"),
    ],
)
def test_exit_codes(body, code, said):
    process, child = start(body)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert said in err
    assert child != process.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(number):
    body = f"""
signal.signal({int(number)}, lambda *_: sys.exit(75))
print("ready", flush=True)
while True:
    time.sleep(0.1)  # A signal just before a sleep does not end it.
"""
    process, _ = start(body)
    with process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(timeout=60) == 75


def test_a_child_does_not_outlive_its_parent():
    process, child = start("time.sleep(60)")
    with process:
        process.kill()
        process.wait()
        deadline = time.monotonic() + 30
        while alive(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(child)
