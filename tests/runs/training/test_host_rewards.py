"""Runs whose reward functions cannot be called, fail, or stop answering."""

import json
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import RolloutConfig, runs, sharding, text, TrainStep
from grpojax.env import AbstractDatasetEnvironment, Rows, TimeStep
from grpojax.reward import HostReward, WeightedSum
from grpojax.runs.cli import main as commands
from grpojax.runs.evaluation.generate import generate
from grpojax.runs.training.health import DivergedError, Monitor, Thresholds
from grpojax.types import Prompt

from ...helpers import count_env, mostly_slow, transformer
from ..conftest import SHIPPED


OPTIMIZER = optax.sgd(0.1)
MESH = {"data": 2, "fsdp": 2, "tensor": 2}


class Named(AbstractDatasetEnvironment):
    """Numbers, whose names are on the host."""

    end_tokens: jax.Array
    size: int = eqx.field(static=True, default=1000)
    vocab_size: int = eqx.field(static=True, default=50)
    max_prompt_length: int = eqx.field(static=True, default=2)
    max_completion_length: int = eqx.field(static=True, default=2)
    max_turns: int = eqx.field(static=True, default=1)

    @property
    def rows(self):
        return NAMES

    def problem(self, index):
        digits = jnp.stack([index // 50, index % 50])
        return index, Prompt(digits, jnp.full((), 2, jnp.int32))

    def step(self, state, turn):
        del turn
        no_reply = jnp.zeros(0, jnp.int32), jnp.zeros((), jnp.int32)
        return state, TimeStep(*no_reply, rewards={}, done=jnp.ones((), bool))


NAMES = Rows({"number": list(range(1000)), "text": [f"no {i}" for i in range(1000)]})


def fit(function, *, steps=3, out=None, mesh=None, **options):
    state = grpojax.init(transformer(), optimizer=OPTIMIZER, key=jr.key(0))
    host = HostReward(function, repr, name="mine", batch_size=options.pop("size", None))
    step = TrainStep(
        options.pop("env", None) or count_env(max_completion_length=2),
        OPTIMIZER,
        rollout=RolloutConfig(4, 2),
        reward=WeightedSum({"mine": 1.0}, host),
    )
    if mesh is not None:
        state = sharding.place(state, mesh)
    return grpojax.fit(state, step, steps=steps, out=out, **options)


def test_a_function_that_fails_on_every_row_stops_the_run(tmp_path):
    calls = []

    def away(completions):
        calls.append(len(completions))
        raise ConnectionError("no server")

    message = (
        "'mine' failed on every row in 2 steps in a row. The last error: "
        "ConnectionError: no server"
    )
    out = tmp_path / "run"
    health = runs.Thresholds(reward_failures=2)
    with pytest.raises(DivergedError, match=message):
        fit(away, steps=9, health=health, out=out)
    assert calls == [1, 8, 8]  # One row before the first step.
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(x)["rewards/mine/frac_errors"] for x in lines] == [1, 1]
    assert json.loads((out / "summary.json").read_text())["status"] == "stopped"


def test_a_function_that_fails_on_some_rows_does_not():
    def odd(completions):
        if len(odd.calls) % 2:
            odd.calls.append(0)
            raise ValueError("odd")
        odd.calls.append(1)
        return [1.0] * len(completions)

    odd.calls = []
    health = runs.Thresholds(reward_failures=1)
    state = fit(odd, size=4, steps=3, health=health)
    assert int(state.version) == 3


def test_failures_are_counted_by_component_and_in_a_row():
    def stops(shares, **options):
        monitor = Monitor(Thresholds(reward_failures=2, **options), {"b": "why"})
        name = "rewards/{}/frac_errors".format
        records = [{name(x): y for x, y in step.items()} for step in shares]
        return [monitor.observe(record).stop for record in records]

    assert stops([{"a": 1.0, "b": 0.5}, {"a": 0.0, "b": 1.0}] * 3) == [None] * 6
    *before, last = stops([{"b": 1.0}, {"b": 0.9}, {"b": 1.0}, {"b": 1.0}])
    assert before == [None] * 3
    assert last is not None and "'b' failed on every row in 2 steps" in last
    assert "The last error: why" in last
    assert stops([{}, {"a": 1.0}]) == [None, None]
    off = Monitor(Thresholds(reward_failures=None))
    assert [off.observe({"rewards/a/frac_errors": 1.0}).stop for _ in range(9)] == (
        [None] * 9
    )
    with pytest.raises(ValueError, match="`Thresholds.reward_failures` must be at"):
        Thresholds(reward_failures=0)


@pytest.mark.parametrize("function", [len, lambda wrong: [wrong]])
def test_what_cannot_be_called_is_refused_before_a_run_begins(function, tmp_path):
    with pytest.raises(ValueError, match="mine"):
        fit(function, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sizes", mostly_slow([{}, MESH], [{}]))
def test_columns_reach_a_function_in_a_run(sizes):
    seen = []

    def look(completions, number, text, prompts):
        assert prompts == [repr([x // 50, x % 50]) for x in number]
        seen.extend(zip(number, text, strict=True))
        return [1.0] * len(completions)

    mesh = sharding.make_mesh(**sizes) if sizes else None
    fit(look, steps=2, mesh=mesh, env=Named(jnp.array([1])))
    assert len(seen) == 1 + 2 * 8  # One row before the first step.
    assert all(text == f"no {number}" for number, text in seen)
    problems = [number for number, _ in seen[1:]]
    np.testing.assert_array_equal(problems[::2], problems[1::2])  # Groups of two.
    assert len(set(problems)) > 2


def test_generate_gives_a_function_the_columns_of_each_problem():
    seen = []

    def look(completions, number):
        assert len(completions) == len(number)
        seen.extend(number)
        return [float(x) for x in number]

    paid = WeightedSum(None, HostReward(look, repr, name="look"))
    env, tokenizer = Named(jnp.array([1])), text.load_tokenizer(SHIPPED)
    found = generate(transformer(), env, tokenizer, problems=3, samples=2, reward=paid)
    assert seen == [0, 0, 1, 1, 2, 2] and len(found) == 3


@pytest.mark.slow
def test_exit_codes_of_the_command(arguments, monkeypatch, capsys):
    def wrong(completions):
        return 1.0 + len(completions)

    def away(completions):
        raise ConnectionError(f"no server for {len(completions)}")

    module = types.SimpleNamespace(wrong=wrong, away=away)
    monkeypatch.setitem(sys.modules, "theirs", module)
    small = arguments(run__eval_problems=0, run__steps=9, health__reward_failures=2)

    def train(name):
        term = f"reward.terms=[{{name: 'theirs:{name}', weight: 1}}]"
        code = commands.main(["train", *small, "--set", term], {})
        return code, capsys.readouterr().err

    code, message = train("wrong")
    assert code == 2 and "'wrong' must return a finite number" in message
    code, message = train("away")
    assert code == 3 and "'away' failed on every row in 2 steps in a row" in message
    assert "ConnectionError: no server for 8" in message
