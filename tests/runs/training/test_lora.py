"""Runs that train adapters: their files, and how they are resumed."""

import json

import chex
import equinox as eqx
import jax
import numpy as np
import pytest

from grpojax import models
from grpojax.runs.checkpoint.arrays import arrays_of
from grpojax.runs.checkpoint.checkpoints import Checkpoints
from grpojax.runs.cli import (
    estimate as estimating,
    evaluate as evaluating,
    main as commands,
    train as training,
)
from grpojax.runs.cli.options import check_paths
from grpojax.runs.recipe import build as parts, load as recipes
from grpojax.runs.recipe.schema import Recipe

from ...helpers import distance, learned


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


LORA = dict(
    model__path="gsm8k-tiny",  # Some of its samples are rewarded, and so it learns.
    lora__rank=2,
    lora__projections="query,down",
    rollout__max_new_tokens=24,
    optimizer__learning_rate=1e-2,
    algorithm__beta=0.05,
)


@pytest.fixture(scope="module", params=[8, 4])
def bits(request):
    """Of the frozen weights."""
    return request.param


@pytest.fixture(scope="module")
def run(settings, bits, tmp_path_factory):
    """A recipe that was run, where, and the state after it."""
    changes = settings(**LORA, lora__base_bits=bits)
    recipe = recipes.load(Recipe(), None, changes)
    path = tmp_path_factory.mktemp("runs") / "run"
    return recipe, path, training.train(recipe, path)


@pytest.mark.slow
def test_a_run_writes_its_adapters_and_the_merged_model(run, bits):
    recipe, path, state = run
    base, _ = parts.load_model(recipe)
    fresh = parts.build_adapters(recipe, base)
    after = state.policy
    chex.assert_trees_all_equal(
        models.without_adapters(after), models.without_adapters(fresh)
    )
    moved = lambda tree: eqx.filter(tree, tree.trainable())
    assert distance(moved(after), moved(fresh)) > 1e-3
    kind = {8: models.Int8Matrix, 4: models.NF4Matrix}[bits]
    assert isinstance(after.layers.query.base, kind)

    read = models.load_adapters(models.without_adapters(fresh), path / "adapter")
    chex.assert_trees_all_equal(read, after)
    config = json.loads((path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == recipe.model.path
    merged = models.load(path / "model")
    chex.assert_trees_all_equal(merged, models.merge(after))


@pytest.mark.slow
def test_a_result_is_evaluated_like_any_model(run, capsys):
    _, path, _ = run
    assert commands.main(["evaluate", str(path)], {}) == 0
    assert "held-out accuracy" in capsys.readouterr().out
    accuracy = [line["accuracy"] for line in lines(path / "evaluations.jsonl")]
    recipe = recipes.load(
        Recipe(), path / "config.yaml", [f"model.path={path / 'model'}"]
    )
    assert evaluating.evaluate(recipe).accuracy == pytest.approx(accuracy[-1])


@pytest.mark.slow
def test_the_base_is_the_reference(run, bits):
    """The penalty is 0 at first, and takes no second copy of the weights."""
    recipe, path, state = run
    assert jax.tree.leaves(state.reference) == []
    divergence = [line["kl"] for line in lines(path / "metrics.jsonl")]
    assert divergence[0] == 0 and divergence[1] > 0
    setup = training.prepare(recipe)
    needs = estimating.estimate(setup)
    assert needs.bytes["reference"] == 0
    config = state.policy.config
    sides = config.hidden_size + config.num_heads * config.head_dim
    sides += config.intermediate_size + config.hidden_size
    assert needs.parameters == config.num_layers * 2 * sides
    # Two moments of every parameter, two counts of the optimizer's steps, the number
    # of updates and the learning rate.
    assert needs.bytes["optimizer"] == 8 * needs.parameters + 16
    summary = setup.config.summary
    millions = needs.parameters / 1e6
    assert f"lora   rank 2, alpha 32, on query,down: {millions:.3f} million" in summary
    assert f"the projections are {bits} bits" in summary
    weights = sum(x.size for x in jax.tree.leaves(parts.load_model(recipe)[0]))
    assert f"{weights / 1e6:,.1f} million parameters, float32" in summary


@pytest.mark.slow
def test_a_checkpoint_holds_what_is_trained(run):
    """And a fingerprint of the frozen weights, which must be those of the run."""
    recipe, path, state = run
    arrays = arrays_of(state)
    names = {name for name in arrays if name.startswith("policy")}
    assert names == {f"policy/layers/{x}/{y}" for x in ("query", "down") for y in "ab"}
    fresh = training.prepare(recipe).state
    with Checkpoints(path / "checkpoints") as checkpoints:
        chex.assert_trees_all_equal(checkpoints.restore(fresh).state, state)
        where = lambda state: jax.tree.leaves(state.policy.layers.query.base)[-1]
        other = eqx.tree_at(where, fresh, replace_fn=lambda x: x.at[0, 0].multiply(2))
        with pytest.raises(ValueError, match="frozen weights.*are not this run's"):
            checkpoints.restore(other)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit(run, bits, settings, tmp_path):
    recipe, path, state = run
    changes = settings(**LORA, lora__base_bits=bits, run__steps=1)
    training.train(recipes.load(Recipe(), None, changes), tmp_path / "run")
    again = training.train(recipe, tmp_path / "run", resume=True)
    chex.assert_trees_all_equal(again, state)
    tensors = [
        (folder / "adapter" / "adapter_model.safetensors").read_bytes()
        for folder in (path, tmp_path / "run")
    ]
    assert tensors[0] == tensors[1]


@pytest.mark.slow
def test_adapters_are_exported_alone_and_trained_on(
    run, bits, settings, tmp_path, capsys
):
    _, path, state = run
    steps = sorted(int(x.name) for x in (path / "checkpoints").iterdir())
    for source in (path, path / "checkpoints" / str(steps[-1])):
        out = tmp_path / source.name
        assert commands.main(["export", str(source), str(out), "--adapter"], {}) == 0
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            assert (out / file).read_bytes() == (path / "adapter" / file).read_bytes()
    changes = {x: y for x, y in LORA.items() if not x.startswith("lora__")}
    changes |= dict(lora__path=str(path / "adapter"), lora__base_bits=bits)
    recipe = recipes.load(Recipe(), None, settings(**changes))
    setup = training.prepare(recipe)
    chex.assert_trees_all_equal(setup.state.policy, state.policy)
    assert f"lora   from {path / 'adapter'}: " in setup.config.summary
    assert jax.tree.leaves(setup.state.reference) == []
    capsys.readouterr()
    words = ["--from", str(path), "--set", "lora.rank=null"]
    words += ["--set", f"lora.path={path / 'adapter'}"]
    assert commands.main(["train", *words, "--out", str(tmp_path / "new")], {}) == 2
    assert "whose adapters are merged" in capsys.readouterr().err


def test_a_recipe_starts_from_adapters(settings, tmp_path):
    policy, _ = parts.load_model(recipes.load(Recipe(), None, settings()))
    adapted = models.lora(policy, ("up",), rank=2, alpha=4, key=jax.random.key(0))
    adapted = learned(adapted)
    models.save_adapters(adapted, tmp_path)
    path = str(tmp_path)
    recipe = recipes.load(Recipe(), None, settings(lora__path=path))
    chex.assert_trees_all_equal(parts.build_adapters(recipe, policy), adapted)
    recipe = recipes.load(Recipe(), None, settings(model__path=path))
    with pytest.raises(ValueError, match="set lora.path to that folder"):
        parts.load_model(recipe)
    with pytest.raises(FileNotFoundError, match="`lora.path` must lead to"):
        check_paths(recipes.load(Recipe(), None, ["lora.path=./nowhere"]))
    with pytest.raises(ValueError, match="leave one null"):
        recipes.load(Recipe(), None, ["lora.path=a", "lora.rank=2"])


@pytest.mark.parametrize(
    "assignment, words",
    [
        ("lora.rank=0", "`lora.rank` must be at least 1. Received 0"),
        ("lora.alpha=0", "`lora.alpha` must be positive. Received 0"),
        ("lora.base_bits=4", "Received lora.base_bits=4 with lora.rank=null: set it"),
        ("lora.base_bits=5", "`lora.base_bits` must be one of 4, 8 or null"),
        ("lora.int8_base=true", "adapters must be trained. Received lora.base_bits=8"),
        ("lora.int8_base=maybe", "`lora.int8_base` must be true or false"),
    ],
)
def test_what_cannot_be_is_refused(assignment, words):
    with pytest.raises(ValueError, match=words):
        recipes.load(Recipe(), None, [assignment])


def test_a_misspelt_projection_is_refused(settings):
    recipe = recipes.load(
        Recipe(), None, settings(lora__rank=2, lora__projections="query, valu")
    )
    with pytest.raises(ValueError, match="did you mean 'value'"):
        training.prepare(recipe)


def test_without_a_rank_nothing_is_adapted(settings):
    recipe = recipes.load(Recipe(), None, settings())
    policy, _ = parts.load_model(recipe)
    assert parts.build_adapters(recipe, policy) is policy
    keys = parts.build_keys(recipe)
    assert len({np.asarray(jax.random.key_data(key)).tobytes() for key in keys}) == 3
