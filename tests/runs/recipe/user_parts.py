"""Parts that a user of recipes might write."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax

from envs.addition import Addition
from grpojax import advantage, algorithms, update
from grpojax.curriculum import AbstractCurriculum
from grpojax.env import Rows
from grpojax.rollout import AbstractSampler, Categorical
from grpojax.types import FloatLike, Rewards, Trajectory


def brief(prompts, completions, most=20, **_):
    """A reward function in TRL's form."""
    assert len(prompts) == len(completions)
    return [float(len(text) < most) for text in completions]


def near(prompts, completions, answers):
    """One that is given the answers."""
    del prompts
    return [float(str(y) in text) for text, y in zip(completions, answers, strict=True)]


def answers(trajectory):
    return {"answers": trajectory.states}


def length(trajectory: Trajectory) -> Rewards:
    """A reward function of a trajectory."""
    return Rewards.of(trajectory.lengths, name="length", lengths=trajectory.lengths)


async def like_answer(completions, answer, scale=1.0):
    """One that is given a column, and is awaited."""
    rows = zip(completions, answer, strict=True)
    return [scale * float(y in text) for text, y in rows]


class Begins:
    """One with arguments of its own."""

    def __init__(self, text, batch_size=None):
        self.text, self.own = text, batch_size

    def __call__(self, completions, **columns):
        del columns
        return [float(text.startswith(self.text)) for text in completions]


class Short(eqx.Module):
    most: int
    horizon: int

    def __call__(self, trajectory: Trajectory) -> Rewards:
        assert self.horizon == trajectory.tokens.shape[-1]
        short = trajectory.lengths < self.most
        return Rewards.of(short.astype(jnp.float32), name="short")


def halved(trajectory: Trajectory, rewards: Rewards) -> Rewards:
    del trajectory
    return dataclasses.replace(rewards, total=rewards.total / 2)


class Scaled(eqx.Module):
    factor: FloatLike

    def __call__(self, trajectory: Trajectory, rewards: Rewards) -> Rewards:
        del trajectory
        return dataclasses.replace(rewards, total=rewards.total * self.factor)


def coarse(policy):
    """A behavior policy of weights that are rounded to bfloat16."""
    is_float = lambda x: eqx.is_inexact_array(x)
    rounded = lambda x: x.astype(jnp.bfloat16).astype(x.dtype) if is_float(x) else x
    return jax.tree.map(rounded, policy)


class Mixed(AbstractSampler):
    """Half of the tokens from one distribution, half from another."""

    temperature: FloatLike = 1.0

    def __call__(self, logits, *, key):
        return Categorical(self.temperature)(logits, key=jr.fold_in(key, 1))


@functools.cache
def table(size):
    """Columns for so many problems."""
    return Rows({"answer": ["5"] * size, "tests": [["x = 1", "assert False"]] * size})


class OnlyCorrect(Addition):
    """Addition without the component `format`, and with rows."""

    @property
    def rows(self):
        return table(self.size)

    def step(self, state, turn):
        state, answer = super().step(state, turn)
        rewards = {"correct": answer.rewards["correct"]}
        return state, dataclasses.replace(answer, rewards=rewards)


class Unpaid(OnlyCorrect):
    """Addition without a component."""

    def step(self, state, turn):
        state, answer = super().step(state, turn)
        return state, dataclasses.replace(answer, rewards={})


@dataclasses.dataclass(frozen=True)
class SumOptions:
    split: str = "test"
    rows: int | None = None


def sums(options: SumOptions, tokenizer, *, horizon, held_out):
    assert isinstance(options, SumOptions) and held_out == 0
    env = OnlyCorrect(tokenizer, split=options.split, max_completion_length=horizon)
    return env, None, [f"{options.rows} rows"]


def heavy_ball(learning_rate, *, decay: float = 0.9):
    """An optimizer."""
    return optax.sgd(learning_rate, decay)


def ramp(*, until: int):
    """A schedule."""
    return optax.linear_schedule(0.0, 1e-3, until)


def plain(*, scale: float = 1.0) -> algorithms.Algorithm:
    """An algorithm."""
    surrogate = update.Clip(high=scale)
    objective = update.Objective(surrogate=surrogate)
    return algorithms.Algorithm(advantage.group_centered, advantage.keep_all, objective)


def signs(rewards: Rewards):
    """An advantage."""
    return jnp.sign(rewards.total - jnp.mean(rewards.total))


def better(rewards: Rewards):
    """A choice of rows."""
    return rewards.total >= 0


def no_ratio(inputs: update.LossInputs):
    return jnp.ones_like(inputs.log_prob)


def even(mask):
    return mask.astype(jnp.float32) / mask.size


class OneByOne(AbstractCurriculum):
    """The problems in their order."""

    start: int

    def init(self, env):
        return {
            "next": jnp.asarray(self.start, jnp.int32),
            "size": jnp.asarray(env.size),
        }

    def draw(self, memory, key, version, count):
        del key, version
        return (memory["next"] + jnp.arange(count)) % memory["size"]

    def observe(self, memory, problems, rewards):
        del rewards
        return {**memory, "next": memory["next"] + problems.shape[0]}


def names_city(completions, city):
    """A reward that reads a column."""
    return [float(x in text) for text, x in zip(completions, city, strict=True)]
