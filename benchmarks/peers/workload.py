"""Makes a workload: a model, prompts and the completion lengths of one train step.

    python benchmarks/peers/workload.py OUT --model small
    python benchmarks/peers/workload.py OUT --model DIR --lengths exponential:30

writes OUT/model, float32 safetensors that every library can load, and
OUT/workload.json.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np

from grpojax import models


def preset(vocab_size: int, hidden_size: int, layers: int, heads: int, mlp: int):
    """A Qwen2 with two key-value heads of width 64 and a tied embedding."""
    return models.TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=mlp,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=2,
        head_dim=64,
        qkv_bias=True,
        tied=True,
    )


PRESETS = {
    "small": preset(2048, 256, 4, 4, 704),
    "large": preset(8192, 512, 8, 8, 1664),
    # The shapes of Qwen2.5-0.5B, with random weights.
    "0.5b": preset(151_936, 896, 24, 14, 4864),
}


def draw_lengths(
    kind: str, rows: int, time: int, generator: np.random.Generator
) -> list[int]:
    """`full`, or `exponential:MEAN`, rounded up and cut at `time`."""
    name, _, mean = kind.partition(":")
    if name == "full" and not mean:
        return [time] * rows
    if name != "exponential" or not float(mean or 0) > 0:
        raise ValueError(
            f"lengths must be `full` or `exponential:MEAN`. Received {kind!r}."
        )
    drawn = np.ceil(generator.exponential(float(mean), rows))
    return np.clip(drawn, 1, time).astype(int).tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--model", default="small", help="small, large, 0.5b or a directory"
    )
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--prefix", type=int, default=64)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--time", type=int, default=128)
    parser.add_argument("--lengths", default="full", help="full or exponential:MEAN")
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    if options.model in PRESETS:
        key = jax.random.key(options.seed)
        policy = models.Transformer(PRESETS[options.model], key=key)
    else:
        policy = models.load(options.model, dtype="float32")
    generator = np.random.default_rng(options.seed)
    shape = options.prompts, options.prefix
    workload = {
        "vocab_size": policy.vocab_size,
        # The last two tokens end and pad completions.
        "prompts": generator.integers(0, policy.vocab_size - 2, shape).tolist(),
        "group": options.group,
        "time": options.time,
        "lengths": draw_lengths(
            options.lengths, options.prompts * options.group, options.time, generator
        ),
        "learning_rate": options.learning_rate,
        "seed": options.seed,
    }
    models.save(policy, options.out / "model")
    (options.out / "workload.json").write_text(json.dumps(workload) + "\n")
    tokens = sum(workload["lengths"])
    print(f"{options.out}: {tokens} tokens to sample, {max(workload['lengths'])} long")


if __name__ == "__main__":
    main()
