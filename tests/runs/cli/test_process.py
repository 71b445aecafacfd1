"""Commands as processes: streams that go away, signals, exit codes, one line each."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest


SCRIPT = """
import sys, time
from grpojax.runs.cli import process
from grpojax.runs.distributed.preemption import Preemption

def command():
{}

sys.exit(process.run("grpojax", command))
"""

TALKS = """
for number in range(20_000):
    print("step", number)
    print("a warning", file=sys.stderr)
with open(sys.argv[1], "w") as file:
    file.write("finished")
"""

LOADS = """
print("loading", flush=True)
try:
    time.sleep(60)
except Exception:
    time.sleep(60)  # As a library may that is being imported.
"""

TRAINS = """
with Preemption() as preemption:
    print("loading", flush=True)
    while not preemption.requested:
        time.sleep(0.01)
print(preemption.received.name)
"""


def started(body: str, *arguments, shell="exec", **options) -> subprocess.Popen:
    """The script in a process that a shell becomes, as `shell` says."""
    script = SCRIPT.format(textwrap.indent(body, "    "))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    command = "sh", "-c", f'{shell} "$@"', "sh", sys.executable, "-c", script
    return subprocess.Popen([*command, *arguments], **pipes)


def test_a_console_that_goes_away_is_no_reason_to_stop(tmp_path):
    """As in `grpojax train | head -1`, and when the terminal is gone as well."""
    done = tmp_path / "done"
    process = started(TALKS, done)
    assert process.stdout.readline() == b"step 0\n"
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 0 and done.read_text() == "finished"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="There is no /dev/full.")
def test_a_console_on_a_full_disk_is_none_either(tmp_path):
    with open("/dev/full", "wb") as full:
        process = started(TALKS, tmp_path / "done", stdout=full, stderr=full)
        assert process.wait(60) == 0
    assert (tmp_path / "done").read_text() == "finished"


def test_closed_streams_are_none_either(tmp_path):
    process = started(TALKS, tmp_path / "done", shell="exec >&- 2>&-; exec")
    process.communicate()
    assert process.wait(60) == 0 and (tmp_path / "done").read_text() == "finished"


@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [
        (signal.SIGTERM, 75, b"grpojax: SIGTERM was received: start again\n"),
        (signal.SIGHUP, 75, b"grpojax: SIGHUP was received: start again\n"),
        (signal.SIGINT, 130, b"grpojax: interrupted\n"),
    ],
)
def test_a_signal_while_loading_ends_in_one_line(sent, code, words):
    process = started(LOADS)
    assert process.stdout.readline() == b"loading\n"
    process.send_signal(sent)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (code, words)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_defers_it_to_its_next_step(sent):
    process = started(TRAINS)
    assert process.stdout.readline() == b"loading\n"
    process.send_signal(sent)
    said, errors = process.communicate(timeout=30)
    assert (process.returncode, said, errors) == (0, f"{sent.name}\n".encode(), b"")


def test_a_hangup_that_is_ignored_stays_so():
    """As under nohup."""
    process = started(TRAINS, shell="trap '' HUP; exec")
    assert process.stdout.readline() == b"loading\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, b"SIGTERM\n")
