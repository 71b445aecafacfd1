"""From the names and numbers of a recipe to the parts that `gsm8k_training.py` runs."""

import dataclasses
import functools as ft
import inspect
from pathlib import Path
from typing import NamedTuple, TYPE_CHECKING

import jax.numpy as jnp
import optax

import grpojax as gx
from envs.addition import Addition
from envs.gsm8k import GSM8K, load_rows, tokens_containing, WORD_PROBLEMS
from grpojax import algorithms
from grpojax.env import AbstractDatasetEnvironment
from grpojax.reward import RewardFn
from grpojax.text import AbstractTokenizer


if TYPE_CHECKING:
    from gsm8k import Recipe


MADE_UP_ROWS = 8192


def shuffled(trajectory: gx.Trajectory, rewards: gx.Rewards) -> gx.Rewards:
    """Pays the rows of every prompt what the rows of its neighbor earned.

    A negative control: the rewards have the same values and say nothing about the rows
    that get them, so whatever improves under it does not owe it to the rewards.
    """
    del trajectory
    return dataclasses.replace(rewards, total=jnp.roll(rewards.total, 1, axis=0))


TRUNCATED = {
    "keep": (),
    "zero": (gx.reward.zero_truncated,),
    "drop": (gx.reward.drop_truncated,),
}


def build_reward(recipe: "Recipe") -> RewardFn:
    settings = recipe.reward
    weights = {"correct": settings.correct, "format": settings.format}
    shapings = TRUNCATED[settings.truncated] + (shuffled,) * settings.shuffle
    return gx.reward.chain(gx.reward.weighted_sum(weights), *shapings)


ALGORITHMS = {
    function.__name__: function
    for function in (
        algorithms.grpo,
        algorithms.dr_grpo,
        algorithms.bnpo,
        algorithms.dapo,
        algorithms.gspo,
        algorithms.cispo,
        algorithms.rloo,
        algorithms.reinforce,
        algorithms.reinforce_plus_plus,
        algorithms.sapo,
        algorithms.vespo,
        algorithms.luspo,
        algorithms.gmpo,
        algorithms.opo,
    )
}


def build_algorithm(recipe: "Recipe") -> algorithms.Algorithm:
    build = ALGORITHMS[recipe.algorithm.name]
    known = inspect.signature(build).parameters
    numbers = {
        key: value
        for key, value in vars(recipe.algorithm).items()
        if key != "name" and value is not None
    }
    for key in numbers:
        if key not in known:
            raise ValueError(
                f"`algorithm.{key}` must be a number of {recipe.algorithm.name}, which "
                f"has {', '.join(known) or 'none'}. Received {numbers[key]}: leave it "
                "out."
            )
    return build(**numbers)


def build_optimizer(recipe: "Recipe") -> optax.GradientTransformation:
    settings, rate = recipe.optimizer, recipe.optimizer.learning_rate
    updates = recipe.run.steps * recipe.update.epochs * recipe.update.minibatches
    warmup = settings.warmup_updates
    decay = max(updates - warmup, 1)
    schedule = {
        "constant": optax.constant_schedule(rate),
        "linear": optax.linear_schedule(rate, 0.0, decay),
        "cosine": optax.cosine_decay_schedule(rate, decay),
    }[settings.schedule]
    if warmup > 0:
        rising = optax.linear_schedule(0.0, rate, warmup)
        schedule = optax.join_schedules([rising, schedule], [warmup])
    adamw = optax.adamw(schedule, weight_decay=settings.weight_decay)
    if settings.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), adamw)


class Split(NamedTuple):
    """Rows to learn from, rows to be judged on, and how many bad ones were skipped."""

    train: list[dict[str, str]]
    held_out: list[dict[str, str]]
    skipped: int


def load_split(recipe: "Recipe") -> Split:
    """Reads both splits; a problem that is held out is not trained on."""
    data, held = recipe.data, recipe.run.eval_problems
    count = data.train_rows
    if data.path == WORD_PROBLEMS and count is None:
        count = MADE_UP_ROWS
    read = ft.partial(load_rows, bad_rows=data.bad_rows)
    if data.eval_path is None and Path(data.path).is_file():
        rows, skipped = read(data.path)
        if held is None or held + (count or 1) > len(rows):
            raise ValueError(
                f"The file of `data.path` has {len(rows)} good rows, of which the first"
                " `run.eval_problems` are held out and the next `data.train_rows` "
                f"trained on. Received {held} and {count}: lower them, or name a file "
                "for `data.eval_path`."
            )
        last = None if count is None else held + count
        held_out, train = rows[:held], rows[held:last]
    else:
        train, skipped = read(data.path, split="train", count=count)
        held_out, skipped_too = [], 0
        if held != 0:
            path = data.eval_path or data.path
            held_out, skipped_too = read(path, split="test", count=held)
        skipped += skipped_too
        for key, wanted, rows in (
            ("data.train_rows", data.train_rows, train),
            ("run.eval_problems", held, held_out),
        ):
            if wanted is not None and len(rows) < wanted:
                raise ValueError(
                    f"`{key}` asks for {wanted} rows. Received {len(rows)}, which is "
                    "all there are: lower it, or leave it null."
                )
    asked = {row["question"] for row in held_out}
    return Split(
        [row for row in train if row["question"] not in asked], held_out, skipped
    )


class Environments(NamedTuple):
    """What is trained on, and what is held out, if anything."""

    train: AbstractDatasetEnvironment
    held_out: AbstractDatasetEnvironment | None
    notes: list[str]


def build_environments(recipe: "Recipe", tokenizer: AbstractTokenizer) -> Environments:
    data, horizon = recipe.data, recipe.rollout.max_new_tokens
    if data.task == "addition":
        make = ft.partial(Addition, tokenizer, max_completion_length=horizon)
        held_out = make(split="test")
        wanted = recipe.run.eval_problems
        if wanted is not None and wanted > held_out.size:
            raise ValueError(
                f"`run.eval_problems` asks for {wanted} rows. Received "
                f"{held_out.size}, which is all there are: lower it, raise "
                "`run.eval_samples` instead, or leave it null."
            )
        return Environments(make(split="train"), held_out if wanted != 0 else None, [])
    split = load_split(recipe)
    shots, train = split.train[: data.shots], split.train[data.shots :]
    ends = ()
    if data.stop is not None:
        ends = tokens_containing(tokenizer.token_bytes, data.stop.encode())
    make = ft.partial(
        GSM8K,
        tokenizer=tokenizer,
        max_completion_length=horizon,
        max_prompt_length=data.max_prompt_length,
        long_prompts=data.long_prompts,
        prompt_style="chat" if data.chat else "raw",
        system_prompt=data.system_prompt,
        shots=shots,
        answer_format=data.answer_format,
        end_tokens=ends,
    )
    environments = make(train), make(split.held_out) if split.held_out else None
    long = sum(env.skipped for env in environments if env is not None)
    notes = [f"{split.skipped} rows without an answer left out"] * (split.skipped > 0)
    notes += [f"{long} rows with too long a prompt left out"] * (long > 0)
    return Environments(*environments, notes)
