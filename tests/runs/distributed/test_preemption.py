import os
import signal
import subprocess
import sys
import threading

import pytest

from grpojax.runs.distributed.preemption import EXIT_PREEMPTED, Preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_question_and_handlers_come_back(number):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Preemption() as preemption:
        assert not preemption.requested
        os.kill(os.getpid(), number)
        assert preemption.requested and preemption.received == number
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_sigterm_any_number_of_times_and_control_c_once():
    with pytest.raises(KeyboardInterrupt), Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.requested
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), Preemption():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_is_left_alone():
    found = []

    def run():
        with Preemption() as preemption:
            found.append((preemption.requested, signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(False, before)]


PROGRAM = """
import sys, time
from grpojax.runs.distributed.preemption import EXIT_PREEMPTED, Preemption
with Preemption() as preemption:
    print("ready", flush=True)
    while not preemption.requested:
        time.sleep(0.01)
print(preemption.received.name)
sys.exit(EXIT_PREEMPTED)
"""


def test_a_process_leaves_with_a_code_of_its_own():
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "SIGTERM\n"
    assert process.returncode == EXIT_PREEMPTED == os.EX_TEMPFAIL
