"""On-policy distillation against GRPO: steps until a student is near its teacher.

    python benchmarks/distillation.py --out out/distillation

The teacher is the model that is shipped, warmed up on worked answers; the student has
half its width, and is warmed up for a little while from random weights. Both are kept
in the folder. Then, for each seed, the student goes on with the teacher's log-probs
alone (no reward), and with GRPO's rewards alone, on the same problems, samples and
learning rate. Printed is the first evaluation at which the accuracy on held-out
problems is the teacher's minus five points. What a run has finished is read from
`results.jsonl` and not repeated.
"""

import argparse
import dataclasses
import json
import time
from importlib import resources
from pathlib import Path

import equinox as eqx
import jax
import jax.random as jr
import optax

import grpojax
from envs.gsm8k import GSM8K, RAW_TEMPLATE, word_problems
from grpojax import advantage, models, update
from grpojax.runs import Evaluation
from grpojax.text import load_tokenizer


SHIPPED = resources.files("grpojax") / "assets" / "gsm8k-tiny"
TOKENIZER = load_tokenizer(SHIPPED)
END = TOKENIZER.end_tokens[0]
LENGTH = 40


def environment(seed: int, count: int) -> GSM8K:
    rows = word_problems(count, seed=seed)
    return GSM8K(rows, TOKENIZER, max_completion_length=LENGTH, max_prompt_length=48)


def warm(policy, steps: int, rate: float, seed: int = 0):
    """Worked answers, learned for some steps."""
    rows = word_problems(8192, seed=seed)
    given = grpojax.Demonstrations.of(
        [TOKENIZER.encode(RAW_TEMPLATE.format(**row)) for row in rows],
        [[*TOKENIZER.encode(row["answer"]), END] for row in rows],
    )
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, 10, steps, rate / 20)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98)
    )
    step = grpojax.SupervisedStep(given, optimizer, rows=64)
    call = eqx.filter_jit(step)
    state = step.init(policy, key=jr.key(seed))
    for _ in range(steps):
        state, metrics = call(state)
    print(f"{steps} supervised steps: loss {float(metrics['loss']):.3f}", flush=True)
    return state.policy


def made(path: Path, make):
    """The model in a folder; it is made if there is none."""
    if not path.exists():
        models.save(make(), path, tokenizer=TOKENIZER)
    return models.load(path, dtype="float32")


def step_of(arm: str, env: GSM8K, teacher, rate: float) -> grpojax.TrainStep:
    algorithm = grpojax.algorithms.grpo()
    if arm == "distill":
        objective = dataclasses.replace(
            algorithm.objective, penalties=(update.Distill(),)
        )
        algorithm = grpojax.algorithms.Algorithm(
            advantage.zero, advantage.keep_all, objective
        )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    return grpojax.TrainStep(
        env,
        optimizer,
        algorithm,
        rollout=grpojax.RolloutConfig(prompts=16, group=8),
        teacher=teacher if arm == "distill" else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--student-steps", type=int, default=250)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    test = Evaluation(environment(10_001, 512), key=jr.key(9), batch=256)
    accuracy = lambda policy: test.run(policy).accuracy
    shipped = models.load(SHIPPED, dtype="float32")
    teacher = made(arguments.out / "teacher", lambda: warm(shipped, 100, 1e-3))
    config = dataclasses.replace(
        shipped.config, hidden_size=64, intermediate_size=176, head_dim=16
    )
    student = made(
        arguments.out / "student",
        lambda: warm(
            models.Transformer(config, key=jr.key(1)), arguments.student_steps, 3e-3, 1
        ),
    )
    goal = accuracy(teacher) - 0.05
    size = lambda x: sum(leaf.size for leaf in jax.tree.leaves(x)) / 1e6
    of = lambda x: f"{size(x):.2f} M parameters, accuracy {accuracy(x):.1%}"
    line = f"teacher {of(teacher)}; student {of(student)}; goal {goal:.1%}"
    print(line, flush=True)
    results = arguments.out / "results.jsonl"
    done = [json.loads(x) for x in results.open()] if results.exists() else []
    known = {(x["arm"], x["seed"], x["rate"]) for x in done}
    for seed in range(arguments.seeds):
        env = environment(seed, 8192)
        for arm in ("distill", "grpo"):
            if (arm, seed, arguments.rate) in known:
                continue
            step = step_of(arm, env, teacher, arguments.rate)
            call = eqx.filter_jit(step)
            state = step.init(student, key=jr.key(seed))
            seen, start = {0: accuracy(student)}, time.perf_counter()
            for number in range(1, arguments.steps + 1):
                state, _ = call(state)
                if number % arguments.every == 0:
                    seen[number] = accuracy(state.policy)
                    if seen[number] >= goal and arm == "distill":
                        break
            first = next((n for n, x in seen.items() if x >= goal), None)
            record = {
                "arm": arm,
                "seed": seed,
                "rate": arguments.rate,
                "first": first,
                "seconds": time.perf_counter() - start,
                "goal": goal,
                "accuracy": seen,
            }
            with results.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
