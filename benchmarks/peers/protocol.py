"""Protocol between a worker and `compare.py`: one JSON line per event.

Only the standard library: this is imported inside every peer's own environment.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Workload:
    """One train step's work, the same for every library; see `workload.py`.

    **Fields:**

    - `model`: a Hugging Face directory with float32 weights.
    - `vocab_size`: of that model. Its last two tokens are `end` and `pad`, which no
        prompt holds and nobody may sample before its time.
    - `prompts`: token ids; all of them are asked at every step.
    - `group`: samples of each prompt.
    - `time`: the longest completion.
    - `lengths`: the imposed length of each of the `prompts · group` completions.
    - `learning_rate`: of AdamW without weight decay, gradients clipped at norm 1.
    - `seed`: of everything.
    """

    model: str
    vocab_size: int
    prompts: list[list[int]]
    group: int
    time: int
    lengths: list[int]
    learning_rate: float
    seed: int

    @property
    def end(self) -> int:
        return self.vocab_size - 2

    @property
    def pad(self) -> int:
        return self.vocab_size - 1

    @property
    def rows(self) -> int:
        return len(self.prompts) * self.group

    @property
    def full(self) -> bool:
        return min(self.lengths) == self.time


def reward(tokens: list[int]) -> float:
    """What everybody pays: the share of even tokens."""
    return sum(token % 2 == 0 for token in tokens) / max(len(tokens), 1)


def read(path: Path) -> Workload:
    workload = json.loads((path / "workload.json").read_text())
    return Workload(**workload | {"model": str(path / "model")})


def arguments(defaults: dict[str, object]) -> tuple[Workload, dict]:
    """A worker's command line: its workload, and its settings over their defaults."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--settings", type=json.loads, default={})
    options = parser.parse_args()
    unknown = options.settings.keys() - defaults.keys()
    if unknown:
        raise ValueError(
            f"The settings are {sorted(defaults)}. Received {sorted(unknown)}."
        )
    return read(options.workload), defaults | options.settings


class Steps:
    """The worker's side: waits for a line on stdin, answers on stdout.

    The file descriptor of stdout is kept for the answers; what libraries print goes to
    stderr.
    """

    def __init__(self):
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._begun = 0.0
        self._first = True

    def ready(self, **facts):
        self._say({"ready": facts})

    def wait(self) -> bool:
        """Sleeps until the next step is asked for; false when there is none."""
        asked = sys.stdin.readline() != ""
        self._begun = time.perf_counter()
        return asked

    def answer(
        self,
        *,
        tokens: int,
        rollout: float | None = None,
        device_bytes: int | None = None,
    ):
        """Ends the step.

        **Arguments:**

        - `tokens`: how many tokens were trained on.
        - `rollout`: seconds from the start until the advantages were known; the rest of
            the step is the update.
        - `device_bytes`: the peak on an accelerator.
        """
        step = time.perf_counter() - self._begun
        update = None if rollout is None else step - rollout
        values = {
            "step_s": step,
            "rollout_s": rollout,
            "update_s": update,
            "generated_tokens": tokens,
            "peak_rss_bytes": peak_rss(),
            "peak_device_bytes": device_bytes,
        }
        if self._first:
            values["start_to_first_step_s"] = seconds_since_start()
            self._first = False
        self._say(values)

    def _say(self, values: dict):
        print(json.dumps(values), file=self._answers, flush=True)


def peak_rss() -> int:
    """Bytes. Not `getrusage`, whose peak is the parent's until it is exceeded."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def seconds_since_start() -> float:
    """Since the process began, so that imports count."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    began = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began
