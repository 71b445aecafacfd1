"""Bias and variance of every algorithm's gradient, exact, against the true gradient.

    python benchmarks/estimators.py

prints two Markdown tables for a tabular policy over a vocabulary of three tokens and
completions of at most two, of which one of seven is right. All batches are enumerated
in float64, so these are no estimates. `--batches 20000` adds one as a last column: the
scale from that many train steps, by `generate` and `improve`, with its interval.
Takes minutes on a CPU.
"""

import argparse
import dataclasses
import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import grpojax
from grpojax import algorithms, RolloutConfig
from grpojax.env import AbstractEnvironment, TimeStep
from grpojax.policy import AbstractPolicy
from grpojax.testing import CompletionTree, gradient_moments
from grpojax.types import Prompt


TREE = CompletionTree(3, 2)
RIGHT = (2, 1)


def every_algorithm() -> dict[str, algorithms.Algorithm]:
    found = {
        name: make()
        for name, make in sorted(vars(algorithms).items())
        if inspect.isfunction(make)
    }
    grouped = algorithms.reinforce_plus_plus(group_baseline=True)
    return found | {"reinforce_plus_plus, group_baseline": grouped}


def problem(prompts: int) -> tuple[Array, Array]:
    """Logits and rewards: the first prompt is paid for [2, 1], the second for [0]."""
    shape = prompts, len(TREE.contexts), TREE.vocab
    with jax.enable_x64(True):  # The draw depends on the dtype.
        drawn = np.asarray(jr.normal(jr.key(0), shape, float))
    logits = jnp.asarray(drawn, jnp.result_type(float))
    rows = [tuple(map(int, x)) for x in TREE.tokens]
    paid = [[x == RIGHT for x in rows], [x == (0, 0) for x in rows]]
    return logits, jnp.asarray(paid[:prompts], logits.dtype)


def moved(logits: Array, rewards: Array, most: float) -> Array:
    """Logits from which a step along the gradient leads to these.

    The largest change of a log-probability is `most`.
    """
    truth = gradient_moments(algorithms.rloo(), TREE, logits, rewards, group=2).truth
    table = lambda size: jax.nn.log_softmax(logits - size * truth)
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        change = jnp.max(jnp.abs(table(middle) - jax.nn.log_softmax(logits)))
        low, high = (middle, high) if change < most else (low, middle)
    return logits - low * truth


class Table(AbstractPolicy[None]):
    """A policy whose logits depend on the last token, and on nothing in the prompt."""

    table: Float[Array, "context vocab"]

    @property
    def vocab_size(self) -> int:
        return self.table.shape[1]

    def write(self, cache, chunk, column):
        del cache, chunk, column

    def extend(self, tokens, positions, *_: Any, **__: Any):
        context = jnp.where(positions > 0, tokens, 0)
        return self.table[context], None

    def logits(self, hidden):
        return hidden.astype(jnp.float32)

    def for_decoding(self, rows=None):
        del rows
        return self


class Right(AbstractEnvironment[Int[Array, ""]]):
    """A prompt of one token; the reward is 1 for one completion."""

    rewards: Float[Array, " completion"]
    end_tokens: Int[Array, " end"]
    vocab_size: int = eqx.field(static=True, default=TREE.vocab)
    max_prompt_length: int = eqx.field(static=True, default=1)
    max_completion_length: int = eqx.field(static=True, default=TREE.horizon)
    max_turns: int = eqx.field(static=True, default=1)
    reply_length: int = eqx.field(static=True, default=0)

    def reset(self, key):
        del key
        nothing = jnp.zeros((), jnp.int32)
        return nothing, Prompt(nothing[None], nothing + 1)

    def step(self, state, turn):
        written = jnp.arange(TREE.horizon) < turn.length
        tokens = jnp.where(written, turn.tokens, 0)
        same = jnp.all(tokens == jnp.asarray(TREE.tokens, jnp.int32), axis=-1)
        none = jnp.zeros(0, jnp.int32)
        paid = {"right": jnp.sum(jnp.where(same, self.rewards, 0))}
        return state, TimeStep(none, jnp.zeros((), jnp.int32), paid, jnp.ones((), bool))


def record(updates, state, params=None):
    del state, params
    return jax.tree.map(jnp.zeros_like, updates), updates


RECORDER = optax.GradientTransformation(lambda params: params, record)


def sampled_scale(
    algorithm: algorithms.Algorithm, *, group: int, batches: int
) -> tuple[float, float]:
    """`GradientMoments.scale` from train steps, and half of its 95% interval."""
    logits, rewards = problem(1)
    env = Right(rewards[0], jnp.zeros(1, jnp.int32))
    step = grpojax.TrainStep(
        env, RECORDER, algorithm, rollout=RolloutConfig(prompts=1, group=group)
    )
    first = step.init(Table(logits[0]), key=jr.key(0))
    truth = gradient_moments(algorithms.rloo(), TREE, logits, rewards, group=2).truth

    def scale(key):
        after, _ = step(dataclasses.replace(first, key=key))
        return -jnp.vdot(after.opt_state.table, truth[0]) / jnp.vdot(truth, truth)

    keys = jr.split(jr.key(1), batches)
    found = np.asarray(jax.jit(lambda: jax.lax.map(scale, keys))(), float)
    return found.mean(), 1.96 * found.std(ddof=1) / np.sqrt(batches)


def on_policy(batches: int):
    with jax.enable_x64(True):
        one, two = problem(1), problem(2)
        header = "algorithm|scale|bias|direction bias, G = 2|4|8|P = 2, G = 4|noise"
        columns = header.split("|") + ["sampled scale"] * bool(batches)
        print(f"| {' | '.join(columns)} |\n|---|{'---:|' * (len(columns) - 1)}")
    for name, algorithm in every_algorithm().items():
        with jax.enable_x64(True):
            given = {
                g: gradient_moments(algorithm, TREE, *one, group=g) for g in (2, 4, 8)
            }
            batch = gradient_moments(algorithm, TREE, *two, group=4)
            biases = [given[g].direction_bias for g in given] + [batch.direction_bias]
            x = given[4]
            words = [f"{x.scale:.4f}", f"{x.bias:.1e}"]
            words += [f"{max(b, 1e-15):.1e}" for b in biases] + [f"{x.noise:.3f}"]
        if batches:
            mean, half = sampled_scale(algorithm, group=4, batches=batches)
            words.append(f"{mean:.4f} ± {half:.4f}")
        print(f"| `{name}` | {' | '.join(words)} |", flush=True)


def off_policy():
    columns = "| algorithm | scale, 0.1 nats | direction bias | noise"
    print(f"\n{columns} | scale, 0.5 nats | direction bias | noise |")
    print(f"|---|{'---:|' * 6}")
    with jax.enable_x64(True):
        logits, rewards = problem(1)
        olds = [moved(logits, rewards, most) for most in (0.1, 0.5)]
        for name, algorithm in every_algorithm().items():
            words = []
            for old in olds:
                x = gradient_moments(
                    algorithm, TREE, logits, rewards, group=4, behavior=old
                )
                words += [f"{x.scale:.4f}", f"{x.direction_bias:.3f}", f"{x.noise:.3f}"]
            print(f"| `{name}` | {' | '.join(words)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=0, help="train steps to sample")
    options = parser.parse_args()
    on_policy(options.batches)
    off_policy()


if __name__ == "__main__":
    main()
