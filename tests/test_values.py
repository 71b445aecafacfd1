"""Values that cannot be right: one sentence each that names the value."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


# Run without the type checks of the tests, as a user's program is.
REFUSED = {
    "rollout.Categorical(float('nan'))": "ValueError: .*temperature=nan",
    "rollout.Categorical(float('inf'))": "ValueError: .*positive and finite.*=inf",
    "rollout.Categorical('1')": "TypeError: `Categorical.temperature` .* Received '1'",
    "RolloutConfig(2, 2, train_prompts=4)": "ValueError: .*train_prompts=4 of prompts",
    "RolloutConfig(2, 2.0)": "ValueError: .* group must be a positive integer",
    "UpdateConfig(epochs=2.5)": "ValueError: epochs must be a positive .* 2.5",
    "UpdateConfig(chunk=0)": "ValueError: chunk must be a positive integer.* 0",
    "UpdateConfig(recompute='yes')": "ValueError: recompute must be True, False",
    "grpo(low=-1)": "ValueError: `Clip.low` must be at least 0. Received -1",
    "grpo(high='0.2')": "TypeError: `Clip.high` must be a number. Received '0.2'",
    "grpo(low=float('nan'))": "ValueError: `Clip.low` must be .*nan",
    "grpo(beta=[0.1])": "TypeError: `KL.coefficient` must be a number",
    "update.Clip(delta=-1.0)": "ValueError: `Clip.delta` must be at least 0",
    "update.Importance(cap=-1.0)": "ValueError: `Importance.cap` must be at least 0",
    "update.Objective(penalties=update.KL(0.1))": "TypeError: .* must be a tuple",
    "update.Objective(entropy_bonus='x')": "TypeError: `Objective.entropy_bonus` must",
    "update.Objective(surrogate=update.Clip)": "TypeError: .* write `Clip\\(\\)`",
    "step(algorithm='grpo')": "TypeError: `TrainStep.algorithm` must be of type .*grpo",
    "step(algorithm=grpo)": "TypeError: .*`algorithms.grpo\\(\\)`",
    "step(algorithm=algorithms.Algorithm)": "TypeError: `TrainStep.algorithm` must",
    "step(env=None)": "TypeError: `TrainStep.env` must be of type",
    "step(env=type(ENV))": "TypeError: `TrainStep.env` must be of type",
    "step(optimizer=1e-3)": "TypeError: `TrainStep.optimizer` .* Received 0.001",
    "step(optimizer=optax.adam)": "TypeError: `TrainStep.optimizer` must be of type",
    "step(rollout={'prompts': 2})": "TypeError: `TrainStep.rollout` must be of type",
    "step(update={'epochs': 2})": "TypeError: `TrainStep.update` must be of type",
    "step(reward='correct')": "TypeError: `TrainStep.reward` must be callable",
    "step(reward=reward.WeightedSum)": "TypeError: .* write `WeightedSum\\(\\)`",
    "grpojax.collect(STATE, ENV, 'grpo', rollout=ROLLOUT)": "TypeError: `collect.algo",
    "grpojax.train_step(STATE, ENV, OPTIMIZER, grpo, rollout=ROLLOUT)": (
        "TypeError: `collect.algorithm` must be of type `Algorithm`"
    ),
    "grpojax.learn(STATE, None, OPTIMIZER, 'grpo')": "TypeError: `learn.algorithm`",
    "reward.WeightedSum({})": "ValueError: .* at least one component. Received {}",
    "reward.WeightedSum('correct')": "TypeError: `WeightedSum.weights` maps",
    "reward.WeightedSum({'a': 'b'})": "TypeError: `WeightedSum.weights.a` must be a",
    "reward.WeightedSum({'a': float('nan')})": "ValueError: `WeightedSum.weights.a`",
    "grpojax.init(POLICY, optimizer=optax.adam, key=KEY)": "TypeError: `init.optimizer",
    "grpojax.init(type(POLICY), optimizer=OPTIMIZER, key=KEY)": "TypeError: `init.poli",
    "grpojax.init(POLICY, optimizer=OPTIMIZER, key=0)": "TypeError: `init.key` must",
    "grpojax.fit(STATE, step(), steps='3')": "ValueError: `fit.steps` .* Received '3'",
    "grpojax.fit(STATE, step(), steps=True)": "ValueError: `fit.steps` .*True",
    "grpojax.fit(STATE, step(), steps=-1)": "ValueError: `fit.steps` must be at least",
    "grpojax.fit(STATE, TrainStep, steps=1)": "TypeError: .*write `TrainStep\\(...\\)`",
    "grpojax.train(STATE, step(), steps=2.5)": "ValueError: `train.steps` .* 2.5",
    "runs.Checkpointing(every=2.5)": "ValueError: `Checkpointing.every` .* 2.5",
    "runs.Checkpointing(every=0)": "ValueError: `Checkpointing.every` must be at least",
    "runs.Logging(samples=-1)": "ValueError: `Logging.samples` must be at least 0",
    "runs.Thresholds(equal_rewards=0)": "ValueError: `Thresholds.equal_rewards` must",
    "runs.Thresholds(truncated=1.5)": "ValueError: `Thresholds.truncated` is a share",
}
PROGRAM = """
import json, sys
import jax, optax, grpojax
from grpojax import algorithms, reward, rollout, runs, update
from grpojax import RolloutConfig, TrainStep, UpdateConfig
from grpojax.algorithms import grpo
from tests.helpers import UniformPolicy, count_env
import equinox as eqx

class Policy(UniformPolicy):
    weight: jax.Array = eqx.field(default_factory=lambda: jax.numpy.zeros(1))

POLICY = Policy()
ENV, OPTIMIZER, KEY = count_env(vocab_size=4), optax.sgd(0.1), jax.random.key(0)
ROLLOUT = RolloutConfig(prompts=2, group=2)
STATE = grpojax.init(POLICY, optimizer=OPTIMIZER, key=KEY)

def step(**changed):
    given = dict(env=ENV, optimizer=OPTIMIZER, rollout=ROLLOUT)
    return TrainStep(**given | changed)

found = {}
for expression in json.load(sys.stdin):
    try:
        found[expression] = f"accepted: {eval(expression)}"
    except Exception as error:
        found[expression] = f"{type(error).__name__}: {error}"
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def said():
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(list(REFUSED)),
        cwd=root,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("expression", REFUSED)
def test_it_is_refused_in_a_sentence(said, expression):
    assert re.match(REFUSED[expression], said[expression], re.DOTALL), said[expression]
    assert "\n" not in said[expression]
