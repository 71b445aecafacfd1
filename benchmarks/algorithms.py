"""Accuracy that every algorithm reaches with the shipped model, at the same settings.

    python benchmarks/algorithms.py --steps 40 --seeds 2

trains on generated word problems, all seeds of an algorithm in one program by `vmap`,
and prints a Markdown table of accuracy at temperature 1 on held-out problems. Nothing
is tuned for any algorithm: the table shows that each of them learns, and not which is
best. Takes about a quarter of an hour on two CPU cores.
"""

import argparse
import inspect
import time
from importlib import resources

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import grpojax
from envs.gsm8k import GSM8K, load_rows, WORD_PROBLEMS
from grpojax import algorithms, reward, rollout


def every_algorithm() -> dict[str, algorithms.Algorithm]:
    return {
        name: make()
        for name, make in vars(algorithms).items()
        if inspect.isfunction(make)
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--held-out", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--only", nargs="*", default=None, help="names of algorithms")
    options = parser.parse_args()

    path = resources.files("grpojax") / "assets" / "gsm8k-tiny"
    policy = grpojax.models.load(path, dtype=jnp.float32)
    tokenizer = grpojax.text.load_tokenizer(path)

    def problems(split: str, count: int) -> GSM8K:
        rows, _ = load_rows(WORD_PROBLEMS, split=split, count=count)
        return GSM8K(rows, tokenizer=tokenizer, max_completion_length=40)

    env = problems("train", 8192)
    held_out = problems("test", options.held_out)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(options.learning_rate)
    )
    keys = jr.split(jr.key(0), options.seeds)

    @eqx.filter_jit
    @eqx.filter_vmap(in_axes=(eqx.if_array(0), None))
    def accuracy(policy, env):
        states, prompts = jax.vmap(env.problem)(jnp.arange(options.held_out))
        rows = rollout.complete(policy, env, states, prompts, group=1, key=jr.key(1))
        return jnp.mean(rows.rewards["correct"])

    @eqx.filter_jit
    def train(keys, algorithm, env):
        def run(key):
            state = grpojax.init(policy, optimizer=optimizer, key=key)
            step = grpojax.TrainStep(
                env,
                optimizer,
                algorithm,
                rollout=grpojax.RolloutConfig(options.prompts, options.group),
                reward=reward.WeightedSum({"correct": 1.0}),
            )
            state, metrics = grpojax.train(state, step, steps=options.steps)
            return state.policy, metrics["skipped_updates"].sum()

        return eqx.filter_vmap(run)(keys)

    lanes = lambda x: jnp.broadcast_to(x, (options.seeds, *x.shape))
    everyone = jax.tree.map(lambda x: lanes(x) if eqx.is_array(x) else x, policy)
    before = float(accuracy(everyone, held_out).mean())
    print(f"before: {before:.1%}, {options}\n", flush=True)
    print("| algorithm | after, each seed | points | skipped | seconds |")
    print("|---|---|---|---|---|", flush=True)
    for name, algorithm in every_algorithm().items():
        if options.only and name not in options.only:
            continue
        start = time.perf_counter()
        trained, skipped = train(keys, algorithm, env)
        after = jax.device_get(accuracy(trained, held_out))
        seconds = time.perf_counter() - start
        accuracies = ", ".join(f"{x:.1%}" for x in after)
        points = 100 * (after.mean() - before)
        count = int(skipped.sum())
        print(
            f"| `{name}` | {accuracies} | {points:+.1f} | {count} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
