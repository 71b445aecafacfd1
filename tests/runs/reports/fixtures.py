"""Synthetic run directories from a seed, and readers of reports."""

import json
import math
import random
import re
from pathlib import Path

import yaml

from grpojax.runs.reports import write_report


GROUP = 4
WORDS = (
    ["So ", "3", " apples", " and", " 4", " make", " 7", ".", "\n", "####", " 7"],
    ["He", " has", " 12", " - ", "5", " = ", "8", "\n", "####", " 8"],
    ["I", " think", " it", " is", " 9", "?"],
)

RECIPE = {
    "run": {"steps": 40, "seed": 0, "eval_problems": 200, "eval_samples": 1},
    "model": {"path": "gsm8k-tiny", "dtype": "float32"},
    "data": {"task": "gsm8k", "path": "word-problems"},
    "rollout": {
        "prompts": 16,
        "group": GROUP,
        "max_new_tokens": 40,
        "temperature": 1.0,
    },
    "reward": {"correct": 1.0, "format": 0.1, "shuffle": False},
    "algorithm": {"name": "grpo", "beta": 0.01},
    "optimizer": {"learning_rate": 5e-05},
}


def recipe(**changes: object) -> dict:
    """`RECIPE` with some keys changed: `recipe(run__seed=1)`."""
    made = json.loads(json.dumps(RECIPE))
    for name, value in changes.items():
        section, key = name.split("__")
        made[section][key] = value
    return made


def metrics(step: int, draw: random.Random) -> dict[str, object]:
    """One line of `metrics.jsonl`, under the names that `train_step` gives."""
    share = 0.9 - 0.55 * math.exp(-step / 12)
    noise = lambda size: draw.gauss(0, size)
    correct = min(1.0, max(0.0, share + noise(0.03)))
    length = 14 + 6 * share + noise(0.5)
    return {
        "step": step,
        "time": 20 + 1.5 * step,
        "step_time": 1.4 + abs(noise(0.1)),
        "rollout_time": 0.9 + abs(noise(0.05)),
        "update_time": 0.5 + abs(noise(0.05)),
        "reward": correct + 0.1 * share,
        "reward_std": 0.5 * math.exp(-step / 30) + abs(noise(0.02)),
        "frac_reward_zero_std": min(1.0, step / 50),
        "rewards/correct/mean": correct,
        "rewards/correct/std": math.sqrt(correct * (1 - correct)),
        "rewards/format/mean": min(1.0, share + 0.08),
        "rewards/format/std": 0.2,
        "num_tokens": round(64 * length),
        "completions/clipped_ratio": 0.02 * math.exp(-step / 9),
        "completions/mean_length": length,
        "completions/min_length": 4.0,
        "completions/max_length": 38.0,
        "completions/mean_terminated_length": length - 0.3,
        "completions/min_terminated_length": 4.0,
        "completions/max_terminated_length": 38.0,
        "completions/mean_correct_length": length + 2,
        "completions/mean_wrong_length": length - 4,
        "entropy": 0.3 * math.exp(-step / 20) + abs(noise(0.01)),
        "kl": 0.002 * step + abs(noise(0.002)),
        "loss": noise(1e-4),
        "grad_norm": None if step == 7 else 1.2 * math.exp(-step / 25),
        "ratio/mean": 1.0,
        "ratio/min": 0.8 - abs(noise(0.05)),
        "ratio/max": 1.2 + abs(noise(0.05)),
        "clip_ratio/low_mean": abs(noise(0.003)),
        "clip_ratio/low_min": 0.0,
        "clip_ratio/high_mean": abs(noise(0.003)),
        "clip_ratio/high_max": abs(noise(0.05)),
        "clip_ratio/region_mean": abs(noise(0.006)),
        "sampling/sampling_logp_difference/mean": 2e-7 + abs(noise(5e-8)),
        "sampling/sampling_logp_difference/max": 6e-6 + abs(noise(2e-6)),
        "skipped_updates": 1.0 if step == 7 else 0.0,
    }


def prompt_record(step: int, place: int, draw: random.Random) -> dict[str, object]:
    """One line of `completions.jsonl`: a prompt and its group."""
    samples = []
    for _ in range(GROUP):
        kind = draw.choices((0, 1, 2), (1 + step / 10, 1, 1))[0]
        pieces = WORDS[kind]
        right = float(kind == 0)
        samples.append(
            {
                "text": "".join(pieces),
                "pieces": pieces,
                "log_prob": [-draw.expovariate(1.5) for _ in pieces],
                "sampled": [True] * len(pieces),
                "rewards": {"correct": right, "format": float(kind < 2)},
                "total": right + 0.1 * float(kind < 2),
                "valid": True,
                "advantage": 0.0,
                "terminated": kind < 2,
            }
        )
    mean = sum(sample["total"] for sample in samples) / GROUP
    for sample in samples:
        sample["advantage"] = sample["total"] - mean
    return {
        "step": step,
        "prompt": f"Question {place}: Tom has 3 apples and buys 4 more. How many are "
        "there?\nAnswer:",
        "samples": samples,
    }


def evaluation(
    step: int, right: int, n: int, *, mode: str = "sampled", **changes: object
) -> dict[str, object]:
    """One line of `evaluations.jsonl`; Wilson's interval spelled out."""
    p, z2 = right / n, 1.96**2
    center = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = 1.96 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    ends = [max(0.0, center - half), min(1.0, center + half)]
    return {
        "step": step,
        "split": "held_out",
        "mode": mode,
        "temperature": 1.0 if mode == "sampled" else 0.0,
        "n": n,
        "problems": n,
        "samples": 1,
        "accuracy": p,
        "interval": ends,
        "metrics": {"pass@1": {"value": p, "n": n, "interval": ends}},
        "baselines": {
            "majority_answer": {"value": 0.06, "n": n, "interval": [0.0346, 0.1021]}
        },
        "mean_length": 20.0,
        "clipped_ratio": 0.01,
        **changes,
    }


def write_lines(path: Path, records: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_predictions(path: Path, step: int, correct: int, n: int) -> None:
    """The first `correct` of n problems are answered correctly."""
    header = {
        "format": 1,
        "problems": n,
        "samples": 1,
        "max_completion_length": 2,
        "training_answer": None,
        "split": "held_out",
        "mode": "sampled",
    }
    rows = [
        {
            "problem": i,
            "prompt": f"Question {i}",
            "prompt_tokens": [i],
            "answer": 7,
            "silent": False,
            "samples": [
                {
                    "text": "#### 7",
                    "tokens": [1, 2],
                    "correct": i < correct,
                    "answer": 7 if i < correct else None,
                    "terminated": True,
                    "length": 2,
                    "rewards": {"correct": float(i < correct)},
                }
            ],
        }
        for i in range(n)
    ]
    write_lines(path / "predictions" / f"{step}-sampled.jsonl", [header, *rows])


def write_run(
    path: Path,
    *,
    seed: int = 0,
    last: int = 40,
    before: int = 70,
    after: int = 160,
    n: int = 200,
    events: list | None = None,
    status: str = "running",
    changes: dict[str, object] | None = None,
) -> Path:
    """A run of 40 steps that reached step `last`; finished at 40."""
    path.mkdir(parents=True)
    draw = random.Random(seed)
    complete = last == 40
    config = recipe(run__seed=seed, **(changes or {}))
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    write_lines(path / "metrics.jsonl", [metrics(i + 1, draw) for i in range(last)])
    logged = [prompt_record(s, i, draw) for s in range(1, last + 1, 5) for i in (1, 2)]
    write_lines(path / "completions.jsonl", logged)
    evaluations = [evaluation(0, before, n)]
    if complete:
        (path / "model").mkdir()
        evaluations += [evaluation(20, (before + after) // 2, n)]
        evaluations += [evaluation(40, after, n)]
    else:
        (path / "checkpoints" / "5").mkdir(parents=True)
    write_lines(path / "evaluations.jsonl", evaluations)
    start = {"step": 0, "kind": "start", "message": "", "time": 0.0}
    write_lines(path / "events.jsonl", [start, *(events or [])])
    summary = {
        "complete": complete,
        "status": "finished" if complete else status,
        "accuracy_before": before / n,
        "accuracy_after": after / n if complete else None,
        "ci95_before": evaluations[0]["interval"],
        "ci95_after": evaluations[-1]["interval"] if complete else None,
        "n_eval": n,
        "steps": last,
        "seconds_total": 93.5 if complete else None,
        "seconds_compile": 18.2,
    }
    (path / "summary.json").write_text(json.dumps(summary))
    return path


def report_files(report: Path) -> dict[str, bytes]:
    folder = report.parent
    found = [report, folder / "report.html", *(folder / "report_files").iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def report_text(run: Path) -> str:
    return write_report([run]).read_text(encoding="utf-8")


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def table_after(text: str, heading: str) -> list[dict[str, str]]:
    lines = text.split(f"## {heading}\n\n")[1].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    header, _, *body = [[unescaped(cell) for cell in row] for row in rows]
    return [dict(zip(header, row, strict=True)) for row in body]


def embedded(report: Path) -> dict:
    page = (report.parent / "report.html").read_text(encoding="utf-8")
    return json.loads(page.split('id="data">')[1].split("</script>")[0])
