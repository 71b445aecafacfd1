"""The average of the weights: its law, as a reference, evaluated and saved."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import grpojax
from grpojax import models, sharding, update
from grpojax.runs.cli import train as training
from grpojax.runs.recipe import build, load as recipes
from grpojax.runs.recipe.schema import Recipe

from .helpers import count_env, distance, learned, transformer
from .runs.conftest import model as model, settings as settings


def step_of(average, penalties=(), **changes) -> grpojax.TrainStep:
    grpo = grpojax.algorithms.grpo()
    objective = dataclasses.replace(grpo.objective, penalties=penalties)
    return grpojax.TrainStep(
        count_env(),
        optax.sgd(0.5),
        dataclasses.replace(grpo, objective=objective),
        rollout=grpojax.RolloutConfig(prompts=4, group=2),
        average=average,
        **changes,
    )


def params(policy):
    return eqx.filter(policy, policy.trainable())


def test_it_moves_by_its_share_every_so_many_steps():
    policy, later = transformer(), learned(transformer())
    average = grpojax.Averaging(0.75, every=2)
    start = average.init(policy)
    kept = average.update(start, later, jnp.array(1))
    assert distance(kept, start) == 0
    moved = average.update(start, later, jnp.array(2))
    wanted = jax.tree.map(
        lambda x, y: 0.75 * x + 0.25 * y, params(policy), params(later)
    )
    assert distance(moved, wanted) < 1e-6 < distance(moved, start)


def test_it_is_kept_in_float32_and_read_in_the_dtype_of_the_weights():
    policy = jax.tree.map(lambda x: x.astype(jnp.bfloat16), transformer())
    average = grpojax.Averaging(0.999)
    kept = average.init(policy)
    assert {x.dtype for x in jax.tree.leaves(kept)} == {jnp.dtype("float32")}
    state = grpojax.init(policy, optimizer=optax.sgd(0.1), key=jr.key(0))
    state = dataclasses.replace(state, average=kept)
    assert distance(grpojax.averaged(state), policy) == 0
    assert grpojax.averaged(state).embedding.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"average=Averaging\(0\.99\)"):
        grpojax.averaged(dataclasses.replace(state, average=None))


@pytest.mark.slow
def test_as_a_reference_it_is_the_one_that_is_given_by_hand():
    """A step with the average as the reference is one with that policy as it."""
    first, kl = transformer(), (update.KL(0.3),)
    step = step_of(grpojax.Averaging(0.5, reference=True), kl)
    start, moved = step.init(first, key=jr.key(0)), learned(first)
    after, metrics = eqx.filter_jit(step)(dataclasses.replace(start, policy=moved))
    assert metrics["kl"] > 0
    given = dataclasses.replace(start, policy=moved, average=None, reference=first)
    by_hand, other = eqx.filter_jit(step_of(None, kl))(given)
    assert distance(by_hand.policy, after.policy) < 1e-6
    assert distance(after.policy, moved) > 1e-4
    np.testing.assert_allclose(other["kl"], metrics["kl"], rtol=1e-5)
    wanted = jax.tree.map(lambda x, y: (x + y) / 2, params(first), params(after.policy))
    assert distance(after.average, wanted) < 1e-6


@pytest.mark.slow
def test_a_mesh_keeps_the_same_average():
    policy, step = transformer(), step_of(grpojax.Averaging(0.5))
    after, _ = eqx.filter_jit(step)(step.init(policy, key=jr.key(0)))
    mesh = sharding.make_mesh(fsdp=4, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        start = sharding.place(step.init(policy, key=jr.key(0)), mesh)
        found, _ = eqx.filter_jit(step)(start)
        shards = found.average.embedding.sharding.num_devices
    gathered = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), found.average)
    assert distance(gathered, after.average) < 1e-5 and shards == 4


def test_what_does_not_fit_is_refused():
    for decay in (1.0, -0.1):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            grpojax.Averaging(decay)
    with pytest.raises(ValueError, match=r"Averaging\.every"):
        grpojax.Averaging(every=0)
    step = step_of(grpojax.Averaging(reference=True))
    with pytest.raises(ValueError, match="has one reference policy"):
        step.init(transformer(), reference=transformer(), key=jr.key(0))


def recipe(settings, *words) -> Recipe:
    words = ["optimizer.learning_rate=1e-2", *words]
    return recipes.load(Recipe(), None, [*settings(), *words])


@pytest.mark.slow
def test_a_run_evaluates_saves_and_resumes_the_average(settings, tmp_path):
    words = [
        *("average.decay=0.5", "run.stage=warmup", "warmup.rows=8"),
        *("evaluations.held_out.problems=4", "checkpoint.every=1"),
        "evaluations.averaged={problems: 4, average: true, at_start: false}",
    ]
    out = tmp_path / "run"
    state = training.train(recipe(settings, *words), out)
    records = [
        json.loads(x) for x in (out / "evaluations.jsonl").read_text().splitlines()
    ]
    assert [(x["name"], x["step"]) for x in records] == [
        ("held_out", 0), ("held_out", 2), ("averaged", 2)
    ]  # fmt: skip
    saved = models.load(out / "average" / "model")
    assert distance(saved, grpojax.averaged(state)) == 0 < distance(saved, state.policy)
    for file in (out / "checkpoints" / "2").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    again = training.train(recipe(settings, *words), out, resume=True)
    assert distance(again.average, state.average) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["average.reference=true"], "no `average.decay`"),
        (["average.decay=0.9", "average.reference=true"], "`algorithm.beta`"),
        (["average.decay=1"], "at least 0 and below 1"),
    ],
)
def test_a_recipe_of_an_average_that_does_not_fit_is_refused(settings, words, message):
    with pytest.raises(ValueError, match=message):
        build.check(recipe(settings, *words))
