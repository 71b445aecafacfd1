"""The same GRPO step in several libraries, interleaved, and the ratios of their times.

    python benchmarks/peers/compare.py --workload DIR --pairs 5 \
        --python grpojax=python --python trl=VENV/bin/python \
        --contestant ours=grpojax --contestant trl=trl \
        --contestant 'trl-bf16=trl:{"dtype": "bfloat16"}'

Every contestant is a process that lives for the entire comparison. They start one after
the other and take their first step alone; then they alternate, one step each per round,
so that disturbances of the machine affect all of them. Ratios are taken within rounds.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import protocol


HERE = Path(__file__).resolve().parent
KINDS = ("grpojax", "trl", "tunix")
MEASURES = {
    "step s": "step_s",
    "rollout s": "rollout_s",
    "update s": "update_s",
    "peak MB": "peak_rss_bytes",
    "peak device MB": "peak_device_bytes",
    "start to first step s": "start_to_first_step_s",
}


@dataclasses.dataclass(frozen=True)
class Contestant:
    name: str
    kind: str
    settings: dict

    @classmethod
    def parse(cls, text: str) -> "Contestant":
        """`NAME=KIND` or `NAME=KIND:JSON`."""
        name, _, rest = text.partition("=")
        kind, _, settings = rest.partition(":")
        if not name or kind not in KINDS:
            raise argparse.ArgumentTypeError(
                f"expected NAME=KIND or NAME=KIND:JSON with KIND in {KINDS}: {text!r}"
            )
        return cls(name, kind, json.loads(settings or "{}"))


class Ended(Exception):
    """A worker's process is no more."""


class Worker:
    """A contestant's process; what it prints besides its answers goes to `log`."""

    def __init__(self, contestant: Contestant, python: str, workload: Path, log: Path):
        self.log = log
        script = HERE / f"{contestant.kind}_worker.py"
        settings = json.dumps(contestant.settings)
        command = [python, script, "--workload", workload, "--settings", settings]
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.facts = self._hear()["ready"]

    def step(self) -> dict:
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self._hear()

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _hear(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            said = self.log.read_text().strip().splitlines()[-5:]
            raise Ended("\n".join([f"A worker ended; {self.log} says:", *said]))
        return json.loads(line)


def race(
    contestants: list[Contestant],
    pythons: dict[str, str],
    workload: Path,
    logs: Path,
    *,
    rounds: int,
    warmup: int,
    pause: float,
) -> dict[str, dict]:
    """Every contestant's facts, first step and measured steps, by name."""
    tokens = sum(protocol.read(workload).lengths)
    workers, results = {}, {}

    def step(name: str) -> dict:
        answer = workers[name].step()
        if answer["generated_tokens"] != tokens:
            raise SystemExit(
                f"{name} trained on {answer['generated_tokens']} tokens, not {tokens}."
            )
        time.sleep(pause)  # Thread pools spin for a while after their work.
        return answer

    try:
        for contestant in contestants:
            name = contestant.name
            print(f"starting {name}", file=sys.stderr)
            log, python = logs / f"{name}.log", pythons[contestant.kind]
            try:
                workers[name] = Worker(contestant, python, workload, log)
                first = step(name)
            except Ended as error:
                # The others' numbers are worth having.
                print(f"{name} is left out. {error}", file=sys.stderr)
                continue
            seconds = first["start_to_first_step_s"]
            print(f"{name}: first step after {seconds:.1f} s", file=sys.stderr)
            facts = workers[name].facts | {"settings": contestant.settings}
            results[name] = {"facts": facts, "first": first, "rounds": []}
        for number in range(-warmup, rounds):
            for name, result in results.items():
                answer = step(name)
                if number >= 0:
                    result["rounds"].append(answer)
            took = [
                f"{name} {r['rounds'][-1]['step_s']:.2f} s"
                for name, r in results.items()
                if r["rounds"]
            ]
            print(f"round {number + 1} of {rounds}", *took, file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.stop()
    return results


def values(result: dict, measure: str) -> list[float]:
    """Of every round; what happens once, or only grows, is one value."""
    if measure == "start_to_first_step_s":
        return [result["first"][measure]]
    found = [answer[measure] for answer in result["rounds"]]
    found = [] if None in found else found
    return found[-1:] if measure.startswith("peak") else found


def spread(numbers: list[float], digits: int) -> str:
    """The median, and from where to where."""
    if not numbers:
        return ""
    median = f"{statistics.median(numbers):.{digits}f}"
    if len(numbers) == 1:
        return median
    return f"{median} ({min(numbers):.{digits}f} to {max(numbers):.{digits}f})"


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def tables(results: dict[str, dict], reference: str) -> str:
    """What was measured, and how many times the reference's that is."""
    heads = [
        head
        for head, measure in MEASURES.items()
        if any(values(result, measure) for result in results.values())
    ]
    rule = "|---" * (len(heads) + 1) + "|"
    lines = [row(["median (min to max)", *heads]), rule]
    for name, result in results.items():
        cells = [name]
        for head in heads:
            numbers = values(result, MEASURES[head])
            if "MB" in head:
                cells.append(spread([number / 1e6 for number in numbers], 0))
            else:
                cells.append(spread(numbers, 2))
        lines.append(row(cells))
    lines += ["", row([f"ratio to {reference}", *heads]), rule]
    for name, result in results.items():
        if name == reference:
            continue
        cells = [name]
        for head in heads:
            mine = values(result, MEASURES[head])
            theirs = values(results[reference], MEASURES[head])
            pairs = zip(mine, theirs, strict=True) if mine and theirs else ()
            cells.append(spread([a / b for a, b in pairs], 2))
        lines.append(row(cells))
    return "\n".join(lines)


def python_of(text: str) -> tuple[str, str]:
    kind, _, path = text.partition("=")
    if kind not in KINDS or not path:
        raise argparse.ArgumentTypeError(f"expected KIND=PATH, KIND in {KINDS}: {text}")
    return kind, path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument(
        "--python", type=python_of, action="append", default=[], metavar="KIND=PATH"
    )
    parser.add_argument(
        "--contestant",
        type=Contestant.parse,
        action="append",
        metavar="NAME=KIND:JSON",
        help="one of every kind that has a --python, at its best settings, if none",
    )
    parser.add_argument("--reference", help="a contestant; the first one if not given")
    parser.add_argument("--pairs", type=int, default=5, help="measured rounds")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before those")
    parser.add_argument(
        "--pause", type=float, default=0.5, help="seconds between steps"
    )
    parser.add_argument("--json", type=Path, help="everything, as a file")
    options = parser.parse_args()

    pythons = {"grpojax": sys.executable} | dict(options.python)
    contestants = options.contestant or [
        Contestant(kind, kind, {}) for kind in KINDS if kind in pythons
    ]
    missing = {contestant.kind for contestant in contestants} - pythons.keys()
    if missing:
        parser.error(f"--python {missing.pop()}=PATH is missing")
    names = [contestant.name for contestant in contestants]
    reference = options.reference or names[0]
    if len(set(names)) < len(names) or reference not in names:
        parser.error("contestants need different names, and the reference is one")
    logs = options.workload / "logs"
    logs.mkdir(exist_ok=True)
    results = race(
        contestants,
        pythons,
        options.workload,
        logs,
        rounds=options.pairs,
        warmup=options.warmup,
        pause=options.pause,
    )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    if reference not in results:
        raise SystemExit(f"{reference}, which all ratios are to, took no step.")
    print(tables(results, reference))


if __name__ == "__main__":
    main()
