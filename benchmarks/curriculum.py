"""Steps that a curriculum takes to the accuracy that uniform prompts end with.

    python benchmarks/curriculum.py --steps 60 --seeds 3

trains the shipped model on generated word problems of mixed difficulty, all seeds of a
curriculum in one program by `vmap`, and evaluates them every few steps on held-out
problems at temperature 1. A problem's level is the number of lines of its solution and
the template it is made from; the curricula by level share one pass rate in each.

It prints a Markdown table: the accuracy of each seed after the last step, the first
evaluation at which the mean over seeds has reached what uniform prompts end with, and
that step as a share of all steps. It then prints the share of each level in the last
draws. Nothing is tuned for any curriculum.
"""

import argparse
import time
from importlib import resources

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import grpojax
from envs.gsm8k import GSM8K, load_rows, WORD_PROBLEMS
from grpojax import curriculum, reward, rollout
from grpojax.env import Rows


class Leveled(GSM8K):
    """Word problems whose rows name their level."""

    levels: Rows = eqx.field(static=True)

    def __init__(self, rows, tokenizer):
        super().__init__(rows, tokenizer, max_completion_length=40)
        lines = [row["answer"].count("\n") for row in rows]
        self.levels = Rows({"lines": lines, "template": [*map(template, rows)]})

    @property
    def rows(self):
        return self.levels


def template(row) -> str:
    """The operators of a solution, one for each line: `*+` is a product, then a sum."""
    lines = row["answer"].split("\n")[:-1]
    return "".join(next(x for x in line if x in "+-*/") for line in lines)


CURRICULA = {
    "uniform": curriculum.Uniform(),
    "shuffled epochs": curriculum.ShuffledEpochs(),
    "learnability by problem": curriculum.Learnability(),
    "learnability by template": curriculum.Learnability(column="template", decay=0.8),
    "band by template": curriculum.PassRateBand(column="template", decay=0.8),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=6, help="steps to an evaluation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--problems", type=int, default=512)
    parser.add_argument("--held-out", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--only", nargs="*", default=None, help="names of curricula")
    options = parser.parse_args()

    path = resources.files("grpojax") / "assets" / "gsm8k-tiny"
    policy = grpojax.models.load(path, dtype=jnp.float32)
    tokenizer = grpojax.text.load_tokenizer(path)

    def problems(split: str, count: int) -> Leveled:
        rows, _ = load_rows(WORD_PROBLEMS, split=split, count=count)
        return Leveled(rows, tokenizer)

    env = problems("train", options.problems)
    held_out = problems("test", options.held_out)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(options.learning_rate)
    )

    @eqx.filter_jit
    def start(keys, chosen):
        def one(key):
            memory = chosen.init(env)
            return grpojax.init(policy, optimizer=optimizer, key=key, curriculum=memory)

        return eqx.filter_vmap(one)(keys)

    @eqx.filter_jit
    def train(states, chosen):
        def one(state):
            step = grpojax.TrainStep(
                env,
                optimizer,
                rollout=grpojax.RolloutConfig(options.prompts, options.group),
                reward=reward.WeightedSum({"correct": 1.0}),
                curriculum=chosen,
            )
            state, metrics = grpojax.train(state, step, steps=options.every)
            count = 4 * options.prompts
            drawn = chosen.draw(state.curriculum, state.key, state.version, count)
            return state, metrics["frac_reward_zero_std"].mean(), drawn

        return eqx.filter_vmap(one)(states)

    @eqx.filter_jit
    @eqx.filter_vmap(in_axes=(eqx.if_array(0), None))
    def solved(policy, env):
        states, prompts = jax.vmap(env.problem)(jnp.arange(options.held_out))
        rows = rollout.complete(policy, env, states, prompts, group=1, key=jr.key(1))
        return rows.rewards["correct"][:, 0]

    keys = jr.split(jr.key(0), options.seeds)
    lines = np.array(held_out.rows["lines"])
    print(f"{options}\n", flush=True)
    print(
        "| curriculum | after, each seed | mean | reached uniform's after | share "
        "| groups without variance | seconds |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    target, by_level = None, []
    for name, chosen in CURRICULA.items():
        if options.only and name not in options.only:
            continue
        begin, states = time.perf_counter(), start(keys, chosen)
        curve, flat = [np.asarray(solved(states.policy, held_out))], []
        for _ in range(options.steps // options.every):
            states, without, drawn = train(states, chosen)
            curve.append(np.asarray(solved(states.policy, held_out)))
            flat.append(float(without.mean()))
        after = curve[-1].mean(axis=1)
        means = np.array([x.mean() for x in curve])
        target = means[-1] if target is None else target
        reached = np.flatnonzero(means >= target)
        step = options.every * int(reached[0]) if len(reached) else None
        share = "-" if step is None else f"{step / options.steps:.2f}"
        print(
            f"| {name} | {', '.join(f'{x:.1%}' for x in after)} | {means[-1]:.1%} | "
            f"{step or 'not'} | {share} | {np.mean(flat):.2f} | "
            f"{time.perf_counter() - begin:.0f} |",
            flush=True,
        )
        asked = np.array(env.rows["lines"])[np.asarray(drawn).reshape(-1)]
        kinds = sorted({*lines.tolist()})
        shares = [f"{np.mean(asked == kind):.0%}" for kind in kinds]
        right = [f"{curve[-1][:, lines == kind].mean():.0%}" for kind in kinds]
        curve_text = ", ".join(f"{x:.1%}" for x in means)
        by_level.append(f"| {name} | {', '.join(shares)} | {', '.join(right)} |")
        by_level[-1] += f" {curve_text} |"
    print("\n| curriculum | draws of 1, 2, 3 lines | solved of these | evaluations |")
    print("|---|---|---|---|")
    print("\n".join(by_level))


if __name__ == "__main__":
    main()
