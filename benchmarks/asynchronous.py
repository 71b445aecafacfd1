"""Steps per minute of the same two devices: synchronous, with actors, and partial.

    python benchmarks/asynchronous.py --steps 10

Lengths are exponential, and each prompt's rows have its length. Weights are random.
"""

import argparse
import json
import statistics
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from presets import PRESETS, RandomPrompts

from grpojax import models, RolloutConfig, sharding, TrainStep
from grpojax.runs.distributed import mesh as meshes
from grpojax.runs.training.step import lower


class Exponential(RandomPrompts):
    """Prompts whose rows have a length of their own, with a mean of `mean` tokens."""

    mean: int = eqx.field(static=True, default=1)

    def __init__(self, vocab_size: int, prefix: int, time: int, mean: int):
        super().__init__(vocab_size, prefix, time)
        self.mean = mean

    def reset(self, key):
        _, prompt = super().reset(key)
        length = jr.exponential(jr.fold_in(key, 1)) * self.mean
        return jnp.maximum(length.astype(jnp.int32), 1), prompt

    def horizon(self, state):
        return jnp.minimum(state, self.max_completion_length)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    add = parser.add_argument
    add("--model", default="tiny", choices=list(PRESETS))
    add("--prompts", type=int, default=8)
    add("--group", type=int, default=8)
    add("--time", type=int, default=512, help="the horizon, in tokens")
    add("--mean", type=int, default=64, help="of the lengths, in tokens")
    add("--staleness", type=int, default=1)
    add("--batches", type=int, default=2, help="prompts besides, in those of steps")
    add("--steps", type=int, default=8)
    return parser.parse_args()


def main() -> None:
    options = parse()
    jax.config.update("jax_num_cpu_devices", 2)
    first, second = jax.devices()[:2]
    both = sharding.make_mesh(data=2, devices=[first, second])
    optimizer = optax.adam(1e-6)
    env = Exponential(PRESETS[options.model].vocab_size, 32, options.time, options.mean)
    rows = options.prompts * options.group

    def step_of(actors=None, **rollout) -> TrainStep:
        config = RolloutConfig(options.prompts, options.group, **rollout)
        return TrainStep(env, optimizer, rollout=config, actors=actors)

    actor = sharding.make_mesh(data=1, devices=[second])
    besides = options.prompts * options.batches
    modes = {
        "synchronous": (step_of(), both),
        "synchronous, half of the slots": (step_of(slots=rows // 2), both),
        "actors": (step_of(actor, staleness=options.staleness), None),
        "partial": (step_of(partial_prompts=besides, slots=rows), both),
    }
    found = {name: measure(step, mesh, options) for name, (step, mesh) in modes.items()}
    base = found["synchronous"]["rows_per_minute"]
    for name, figures in found.items():
        figures["ratio"] = figures["rows_per_minute"] / base
        print(
            f"{name:32} {figures['seconds']:7.2f} s a step, "
            f"{figures['tokens']:7.0f} tokens a step, {figures['ratio']:.2f} x"
        )
    print(json.dumps(found))


def measure(step: TrainStep, mesh, options) -> dict[str, float]:
    """Medians over the steps, after two that may wait for the first rollouts."""
    policy = models.Transformer(PRESETS[options.model], key=jr.key(0))
    with meshes.use(mesh):
        state = meshes.place(step.init(policy, key=jr.key(0)), mesh)
        compiled = lower(state, step).compile()
        seconds, tokens = [], []
        for _ in range(options.steps + 2):
            start = time.perf_counter()
            state, metrics, _ = compiled.call(state)
            tokens.append(float(metrics["num_tokens"]))
            seconds.append(time.perf_counter() - start)
        compiled.close()
    total = sum(seconds[2:])
    return {
        "seconds": statistics.mean(seconds[2:]),
        "tokens": statistics.mean(tokens[2:]),
        "rows_per_minute": 60 * options.steps * options.prompts / total,
        "tokens_per_second": sum(tokens[2:]) / total,
    }


if __name__ == "__main__":
    main()
