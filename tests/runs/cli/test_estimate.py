"""What a run would need on each device, counted and by the compiler's account."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from grpojax import models, RolloutConfig, sharding, text
from grpojax.models import Transformer
from grpojax.runs.cli import estimate as estimating, train as training
from grpojax.runs.distributed import mesh as meshes
from grpojax.runs.recipe import load as recipes
from grpojax.runs.recipe.schema import Recipe

from ...helpers import CONFIGS
from ..conftest import SHIPPED


LEVERS = dict(
    model__dtype="bfloat16",
    model__cache_dtype="int8",
    model__remat="mlp",
    optimizer__state_dtype="float32",
    update__chunk=3,
    rollout__slots=3,
    run__eval_problems=0,
    run__steps=1,
)


@pytest.fixture(scope="module")
def recipe(settings):
    return recipes.load(Recipe(), None, settings(**LEVERS))


@pytest.mark.slow
def test_every_lever_of_a_recipe_is_seen_in_what_is_counted(recipe):
    setup = training.prepare(recipe)
    found = estimating.estimate(setup)
    # One layer of width 16 with a key-value head of 8, as the fixture says.
    vocab = text.load_tokenizer(SHIPPED).vocab_size
    numbers = vocab * 16 + 16 * 8 * (2 + 1 + 1 + 2) + 3 * 16 * 32 + 3 * 16
    assert (found.parameters, found.devices) == (numbers, 1)
    prefix = setup.step.step.env.max_prompt_length
    column = 2 * (8 + 4)  # A key and a value in int8, and their scales.
    assert found.bytes == {
        "parameters": numbers * 2,
        "gradient": numbers * 4,
        # Two moments, the counts of Adam, the schedule and the rounding, and the
        # learning rate that is recorded with its count.
        "optimizer": numbers * 8 + 5 * 4,
        "reference": 0,
        # The transposed embedding, which is the head of a tied model.
        "decoding weights": vocab * 16 * 2,
        # Of two prompts, and copies for three slots that are refilled.
        "prompt caches": (2 + 3) * prefix * column,
        "completion caches": 3 * 6 * column,
    }
    program = found.programs["step"]
    assert program["temporary"] > 0
    held = found.bytes["parameters"] + found.bytes["optimizer"]
    assert program["arguments"] > held
    said = estimating.describe(found)
    # Of the state's arrays the new ones take the place of the old ones.
    whole = estimating.total(program)
    assert whole >= program["arguments"] + program["temporary"]
    assert f"memory at most {estimating.readable(whole)}" in said
    assert f"gradient {estimating.readable(numbers * 4)}" in said
    assert "(counted)" in said and "devices" not in said


def lengths(completions):
    return [len(x) for x in completions]


SHAPED = {
    "levers": LEVERS,
    "a mesh": dict(mesh__fsdp=2, mesh__tensor=2, rollout__group=2),
    "adapters": dict(lora__rank=2, lora__base_bits=8, lora__projections="query up"),
    "references": {
        "algorithm.penalties": "[{name: KL, coefficient: 0.1}]",
        "reward.terms": "[{name: KLReward, weight: -0.1}]",
        "evaluations.held_out.every": 1,
    },
    "unfinished rows": dict(rollout__partial_prompts=2),
    "earlier policies": dict(rollout__staleness=1),
    "Python": {"reward.terms": "[tests.runs.cli.test_estimate:lengths]"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPED)
def test_a_run_of_shapes_needs_what_one_with_weights_needs(settings, name):
    recipe = recipes.load(Recipe(), None, settings(**SHAPED[name]))
    shaped = training.prepare(recipe, weights=False)
    is_array = lambda x: isinstance(x, jax.Array)
    assert not list(filter(is_array, jax.tree.leaves(shaped.state)))
    found, wanted = map(estimating.estimate, (shaped, training.prepare(recipe)))
    timeless = lambda x: x._replace(seconds_compile=0.0, cached=False)
    assert timeless(found) == timeless(wanted)


@pytest.mark.slow
def test_every_lever_of_a_recipe_takes_a_step(recipe):
    state = training.train(recipe)
    assert int(state.version) == 1
    policy = state.policy
    assert policy.embedding.dtype == jnp.bfloat16
    assert (policy.cache_dtype, policy.remat) == ("int8", "mlp")


def test_the_sampler_s_own_weights_count_where_they_differ():
    make = lambda **settings: Transformer(
        CONFIGS["llama"], **settings, key=jax.random.key(0)
    )

    def counted(policy, mesh=None):
        decoding = eqx.filter_eval_shape(lambda p: p.for_decoding(), policy)
        return estimating._decoding_weights(policy, decoding, mesh)

    policy, size = make(), CONFIGS["llama"]
    norms = size.hidden_size * (2 * size.num_layers + 1)
    matrices = sum(x.size for x in jax.tree.leaves(policy)) - norms
    # Layers that are written out are copied; a scan reads them where they lie.
    assert counted(policy) == 4 * sum(x.size for x in jax.tree.leaves(policy.layers))
    assert counted(make(cache_dtype="bfloat16")) == 0
    assert counted(make(compute_dtype="bfloat16")) == 2 * matrices
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    placed = sharding.place(policy, mesh)
    # What is kept is cut in four, what is multiplied with in two; norms are whole.
    whole = estimating.device_bytes(policy)
    assert estimating.device_bytes(placed) < 0.3 * whole
    assert counted(placed, mesh) == 4 * (matrices / 2 + norms)


def test_the_decoder_is_estimated_on_the_mesh_that_builds_it():
    """One CPU copies a tied head, and a mesh with tensor parallelism does not."""
    policy = Transformer(
        dataclasses.replace(CONFIGS["llama"], tied=True), key=jax.random.key(0)
    )
    config = RolloutConfig(1, 4)
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    placed = sharding.place(policy, mesh)
    with jax.set_mesh(mesh):
        built = eqx.filter_jit(lambda policy: policy.for_decoding(4))(placed)
    found = estimating.abstract_decoder(config, placed, mesh, 4)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert eqx.tree_equal(shapes(found), shapes(built))
    counted = estimating._decoding_weights(placed, found, mesh)
    assert counted == estimating.device_bytes(built)
    alone = estimating.abstract_decoder(config, placed, None, 4)
    assert jax.tree.structure(alone) != jax.tree.structure(built)


def test_weights_of_8_bits_are_counted():
    """A byte of every weight and a scale of every output, on the device that reads."""
    policy = Transformer(CONFIGS["llama"], key=jax.random.key(0))
    config = RolloutConfig(1, 4, behavior=models.quantize)
    matrices = [x for x in policy.layers.projections.values()]
    weights = sum(x.size for x in matrices)
    outputs = sum(x.shape[0] * x.shape[-1] for x in matrices)
    decoder = estimating.abstract_decoder(config, policy, None, 4)
    norms = 2 * 2 * policy.config.hidden_size  # Copied out of their stack.
    counted = estimating._decoding_weights(policy, decoder, None)
    assert counted == weights + 4 * (outputs + norms)
    mesh = sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
    placed = sharding.place(policy, mesh)
    found = estimating.abstract_decoder(config, placed, mesh, 4)
    build = lambda policy: config.behavior_policy(policy).for_decoding(4)
    with jax.set_mesh(mesh):
        built = eqx.filter_jit(build)(placed)
    counted = estimating._decoding_weights(placed, found, mesh)
    assert counted == estimating.device_bytes(built)


def test_an_array_that_is_cut_counts_with_one_part():
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), (jax.sharding.AxisType.Auto,) * 2)
    put = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))
    tree = {
        "cut": put(jnp.zeros((8, 6), jnp.bfloat16), "fsdp"),
        "whole": put(jnp.zeros(5, jnp.float32)),
        "nothing": None,
        "static": 3,
    }
    assert estimating.device_bytes(tree) == 2 * 6 * 2 + 5 * 4
    assert estimating.device_bytes(tree, wide=True) == 2 * 6 * 4 + 5 * 4
    assert meshes.mesh_of(tree) == mesh
    assert meshes.mesh_of({"here": jnp.zeros(3)}) is None
