"""Time and compile time of a step, as one size at a time grows.

    python benchmarks/scaling.py --out /tmp/scaling.png
    python benchmarks/scaling.py --axes layers --steps 1

Every point is the preset `tiny` with one size changed: full lengths, random weights.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path

import jax.random as jr
import matplotlib.pyplot as plt
import optax
from presets import PRESETS, RandomPrompts
from step_throughput import compile_step, repeat

import grpojax
from grpojax import models


AXES = {
    "group": (4, 8, 16, 32),
    "prompts": (4, 8, 16, 32),
    "time": (32, 64, 128, 256),
    "vocabulary": (2048, 8192, 32_768, 131_072),
    "hidden": (128, 256, 512, 1024),
    "layers": (2, 4, 8, 16, 32),
}
SAMPLING = {"group": 8, "prompts": 8, "time": 128}
MODEL = {"vocabulary": "vocab_size", "hidden": "hidden_size", "layers": "num_layers"}


def measure(axis: str, value: int, steps: int, dtype: str) -> tuple[float, float]:
    """Seconds to compile and, as a median, of a step."""
    sizes, config = dict(SAMPLING), PRESETS["tiny"]
    if axis in sizes:
        sizes[axis] = value
    else:
        changes = {MODEL[axis]: value}
        if axis == "hidden":
            heads = value // config.head_dim
            changes |= {"intermediate_size": value * 11 // 4, "num_heads": heads}
        config = dataclasses.replace(config, **changes)
    policy = models.Transformer(config, compute_dtype=dtype, key=jr.key(0))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-6))
    state = grpojax.init(policy, optimizer=optimizer, key=jr.key(1))
    step = grpojax.TrainStep(
        RandomPrompts(config.vocab_size, 64, sizes["time"]),
        optimizer,
        rollout=grpojax.RolloutConfig(sizes["prompts"], sizes["group"]),
    )
    compiled, seconds = compile_step(step, state)

    def call():
        nonlocal state
        state, metrics = compiled(state)
        return metrics

    return seconds, statistics.median(repeat(call, steps))


def draw(points: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """One panel an axis, both of its scales logarithmic."""
    figure, panels = plt.subplots(
        1, len(points), figsize=(3.2 * len(points), 3), squeeze=False, sharey=True
    )
    for panel, (axis, measured) in zip(panels[0], points.items(), strict=True):
        values, compiling, seconds = zip(*measured, strict=True)
        panel.loglog(values, seconds, "o-", label="a step")
        panel.loglog(values, compiling, "s--", color="gray", label="compilation")
        proportional = [seconds[0] * value / values[0] for value in values]
        panel.loglog(values, proportional, ":", color="gray", label="proportional")
        panel.set(title=axis, xticks=values, xticklabels=values)
        panel.minorticks_off()
    panels[0][0].set_ylabel("seconds")
    panels[0][0].legend()
    figure.savefig(path, bbox_inches="tight")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=None, help="a picture, such as PNG")
    options = parser.parse_args()
    print("| axis | value | compile s | step s | to the one above |")
    print("|---|---|---|---|---|")
    points = {}
    for axis in options.axes:
        points[axis] = []
        for value in AXES[axis]:
            compiling, seconds = measure(axis, value, options.steps, options.dtype)
            factor = f"{seconds / points[axis][-1][2]:.2f}" if points[axis] else ""
            points[axis].append((value, compiling, seconds))
            row = f"| {axis} | {value} | {compiling:.1f} | {seconds:.2f} | {factor} |"
            print(row, flush=True)
    if options.out is not None:
        draw(points, options.out)


if __name__ == "__main__":
    main()
