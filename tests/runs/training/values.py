"""A policy, environment, reward and tracker of a user's own, without a recipe."""

import json
import os
import signal
from pathlib import Path

import jax.random as jr
import optax
from jaxtyping import Array, Float

from grpojax import algorithms, fit, init, RolloutConfig, TrainStep
from grpojax.policy import AbstractPolicy
from grpojax.reward import HostReward, WeightedSum
from grpojax.runs.training.settings import Checkpointing
from tests.helpers import count_env


STEPS, KILLED_AT = 7, 5


class Bigram(AbstractPolicy[None]):
    """Logits of the next token that depend on the last token only."""

    table: Float[Array, "vocab vocab"]

    @property
    def vocab_size(self) -> int:
        return self.table.shape[0]

    def extend(self, tokens, positions, *_, **__):
        del positions
        return self.table[tokens], None

    def write(self, cache, chunk, column):
        del cache, chunk, column

    def logits(self, hidden):
        return hidden

    def for_decoding(self, rows=None):
        del rows
        return self


def sevens(prompts, completions, **_):
    """A reward on the host: one for each 7."""
    del prompts
    return [float(text.count("7")) for text in completions]


def make_step(*, rate=0.05, ends=(1, 2), target=7, algorithm=None):
    return TrainStep(
        count_env(ends=ends, target=target, vocab_size=10),
        optax.adam(rate),
        algorithms.grpo() if algorithm is None else algorithm,
        rollout=RolloutConfig(4, 4),
        reward=WeightedSum(
            {"target": 1.0, "sevens": 0.5}, HostReward(sevens, repr, name="sevens")
        ),
    )


def start(rate=0.05):
    policy = Bigram(0.1 * jr.normal(jr.key(0), (10, 10)))
    return init(policy, optimizer=optax.adam(rate), key=jr.key(1))


class Recorder:
    """A tracker that keeps the steps up to the checkpoint that is resumed."""

    def __init__(self, run):
        self.path, self.after = run.directory / "mine.jsonl", run.resume_step
        run.directory.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= self.after]
        self.path.write_text("".join(f"{line}\n" for line in kept))

    def log(self, step, metrics):
        if step > self.after:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, "reward": metrics["reward"]}))
                file.write("\n")

    def table(self, name, step, rows):
        del name, step, rows

    def close(self):
        pass


class Killer(Recorder):
    """The same, which kills the process."""

    def log(self, step, metrics):
        super().log(step, metrics)
        if step == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def train(out, *, steps=STEPS, resume=False, trackers=None, **changes):
    return fit(
        start(changes.get("rate", 0.05)),
        make_step(**changes),
        steps=steps,
        out=out,
        resume=resume,
        checkpoint=Checkpointing(every=2),
        trackers=trackers,
    )


def train_until_killed(out):
    train(Path(out), trackers={"mine": Killer})
