"""Every family of `families.py` computes what `transformers` computes."""

import json

import equinox as eqx
import families
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params

import grpojax
from grpojax import models, policy, rollout, sharding, testing, update
from tests.helpers import CONFIGS, count_env, learned, leaves, mostly_slow


# One family in every run, the others where there are minutes.
QUICK = ("gemma3_text",)
SPLIT = dict(data=2, fsdp=2, tensor=2)
MESHES = {
    "qwen3_moe": dict(data=2, tensor=2, expert=2),
    "qwen2_moe": dict(data=2, tensor=2, expert=2),
    "olmoe": dict(fsdp=2, expert=4),
    "gpt_oss": dict(data=2, tensor=2, expert=2),
    "mixtral": dict(fsdp=2, expert=4),
}
FIRST = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name in families.SETTINGS
]
SOME = [
    pytest.param(name, i, marks=[] if i < 2 else pytest.mark.slow)
    for name, i in families.CASES
]


@pytest.fixture(scope="module")
def golden():
    return np.load(families.GOLDEN)


@pytest.mark.parametrize("family, index", SOME)
def test_logits_are_the_golden_ones(tmp_path, golden, family, index):
    loaded = families.load(tmp_path, family, index)
    found = policy.logits(loaded, families.TOKENS)[-families.LAST :]
    np.testing.assert_allclose(found, golden[f"{family}-{index}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family, index", SOME)
def test_there_and_back(tmp_path, family, index):
    """The same configuration and the same tensors, bit by bit."""
    loaded = families.load(tmp_path, family, index)
    models.save(loaded, tmp_path / "ours")
    again = models.load(tmp_path / "ours")
    assert again.config == loaded.config
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("family, index", SOME)
def test_transformers_agrees_there_and_back(tmp_path, family, index):
    pytest.importorskip("transformers", reason="The peer to agree with.")
    loaded = families.load(tmp_path, family, index)
    expected = families.peer_logits(tmp_path / f"{family}-{index}")
    found = policy.logits(loaded, families.TOKENS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    models.save(loaded, tmp_path / "ours")
    back = families.peer_logits(tmp_path / "ours")
    np.testing.assert_allclose(back, expected, rtol=0, atol=1e-6)


ENV = count_env(vocab_size=61, max_prompt_length=12, max_completion_length=12)
STEP = grpojax.TrainStep(
    ENV,
    # Adam divides by the gradient's own size: where that is rounding, so are its steps.
    optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.3)),
    rollout=rollout.RolloutConfig(prompts=8, group=2, slots=8),
)


@eqx.filter_jit
def train(state):
    experience = STEP.collect(state)
    trajectory = experience.trajectory
    again, _ = update.log_probs(state.policy, trajectory.prompt, trajectory.tokens)
    return *STEP.learn(state, experience), trajectory, again


def steps(policy):
    """Metrics and the trajectory of the second of two steps, and the policy then."""
    state = grpojax.init(policy, optimizer=STEP.optimizer, key=jr.key(1))
    for _ in range(2):
        state, metrics, trajectory, again = train(state)
    return state.policy, metrics, trajectory, again


@pytest.mark.slow
@pytest.mark.parametrize("family", families.SETTINGS)
def test_a_mesh_trains_and_samples_what_one_device_does(tmp_path, family):
    """And the sampler's log-probabilities are those of teacher forcing."""
    loaded = families.load(tmp_path, family, 0)
    trained, metrics, trajectory, again = steps(loaded)
    assert all(np.isfinite(float(x)) for x in metrics.values())
    gap = jnp.where(trajectory.sampled, again - trajectory.log_prob, 0)
    np.testing.assert_allclose(gap, 0, atol=1e-5)
    mesh = sharding.make_mesh(**MESHES.get(family, SPLIT))
    with jax.set_mesh(mesh):
        placed, _, found, _ = steps(sharding.place(loaded, mesh))
    np.testing.assert_array_equal(found.tokens, trajectory.tokens)
    for one, other in zip(leaves(placed), leaves(trained), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("family", FIRST)
def test_adapters_and_fewer_bits(tmp_path, family):
    loaded = families.load(tmp_path, family, 0)
    logits = eqx.filter_jit(policy.logits)
    exact = np.asarray(logits(loaded, families.TOKENS))
    adapted = models.lora(loaded, rank=2, alpha=4.0, key=jr.key(0))
    np.testing.assert_allclose(logits(adapted, families.TOKENS), exact, atol=1e-5)
    changed = learned(adapted, 0.1)
    found = logits(changed, families.TOKENS)
    assert np.abs(found - exact).max() > 1e-2
    merged = logits(models.merge(changed), families.TOKENS)
    np.testing.assert_allclose(found, merged, atol=1e-4)
    quantized = models.quantize(loaded)
    eight = logits(quantized, families.TOKENS)
    close = logits(models.merge(quantized), families.TOKENS)
    np.testing.assert_allclose(eight, close, atol=1e-4)
    # A token that had an expert by a hair may have another one.
    assert 0 < np.median(np.abs(eight - exact)) < 0.15 * np.abs(exact).mean()
    coarse = models.quantize(changed, bits=4)
    merged = logits(models.merge(coarse), families.TOKENS)
    assert np.abs(merged - found).max() > 1e-2
    found = logits(coarse, families.TOKENS)
    np.testing.assert_allclose(found, merged, atol=1e-4)


@pytest.mark.parametrize("family", mostly_slow(["gemma3_text", "smollm3"], ["smollm3"]))
def test_windows_keep_the_laws(tmp_path, family):
    """Any chunking and order of columns, packed sequences, and a shared context."""
    index = {"gemma3_text": 0, "smollm3": 5}[family]
    testing.check_policy(families.load(tmp_path, family, index), key=jr.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("family, index", families.CASES)
def test_every_setting_keeps_the_laws(tmp_path, family, index):
    loaded = families.load(tmp_path, family, index)
    testing.check_policy(loaded, key=jr.key(0), length=24)


@pytest.mark.slow
def test_windows_reach_back_through_the_ring_of_a_long_row(tmp_path):
    """A row is longer than the ring of recent columns, and its blocks move."""
    env = count_env(
        ends=(-1,), vocab_size=61, max_prompt_length=100, max_completion_length=300
    )
    values = families.config_of("mistral", 0) | dict(sliding_window=150)
    loaded = models.load(families.write(tmp_path / "model", values))
    config = rollout.RolloutConfig(prompts=2, group=2, slots=3)
    made = eqx.filter_jit(rollout.generate)(loaded, env, config, key=jr.key(0))
    again, _ = eqx.filter_jit(update.log_probs)(loaded, made.prompt, made.tokens)
    gap = jnp.where(made.sampled, again - made.log_prob, 0)
    np.testing.assert_allclose(gap, 0, atol=1e-5)


def equations(jaxpr):
    """How many equations a program has, in all of its parts."""
    inner = [jaxprs_in_params(equation.params) for equation in jaxpr.eqns]
    return len(jaxpr.eqns) + sum(equations(one) for several in inner for one in several)


@pytest.mark.skipif(
    jax.__version_info__[:2] != (0, 10), reason="Another JAX has other equations."
)
@pytest.mark.parametrize(
    "name, count",
    [
        ("llama", (165, 424, 335)),
        ("qwen2", (171, 446, 521)),
        ("qwen3", (185, 498, 386)),
    ],
)
def test_switches_that_are_off_cost_nothing(name, count):
    """As many equations as before there were any: logits, gradient and decoding."""
    shapes = eqx.filter_eval_shape(models.Transformer, CONFIGS[name], key=jr.key(0))
    tokens = jax.ShapeDtypeStruct((7,), jnp.int32)
    total = lambda p, t: jnp.sum(policy.logits(p, t))
    programs = (
        policy.logits,
        jax.grad(total),
        lambda p, t: policy.logits(p.for_decoding(), t),
    )
    made = [jax.make_jaxpr(one)(shapes, tokens).jaxpr for one in programs]
    assert tuple(map(equations, made)) == count


def test_a_program_is_as_deep_as_its_kinds_and_not_as_its_layers():
    """Windows and ropes by layer are one scanned body."""
    counts = set()
    for depth in (6, 18):
        values = families.config_of("gemma3_text", 0) | dict(num_hidden_layers=depth)
        config = models.config_from_huggingface(values)
        shapes = eqx.filter_eval_shape(models.Transformer, config, key=jr.key(0))
        tokens = jax.ShapeDtypeStruct((7,), jnp.int32)
        counts.add(equations(jax.make_jaxpr(policy.logits)(shapes, tokens).jaxpr))
    assert len(counts) == 1


def test_past_the_limit_of_a_rope_nothing_is_a_number(tmp_path):
    loaded = families.load(tmp_path, "phi3", 3)
    assert loaded.config.limit == 41
    text = np.resize(families.TOKENS, 42)
    assert np.isfinite(policy.logits(loaded, text[:41])).all()
    assert np.isnan(policy.logits(loaded, text)[41]).all()


def edits(value):
    """Other values of a key; a function removes it."""
    found = [None, True, False, 0, 1, 3, "x", [], {}]
    if isinstance(value, int | float) and not isinstance(value, bool):
        found += [value * 2, value / 2, -value]
    return [one for one in found if one is not value and one != value]


@pytest.mark.slow
@pytest.mark.parametrize("family", families.SETTINGS)
def test_an_edited_key_is_refused_or_computes_what_transformers_does(tmp_path, family):
    transformers = pytest.importorskip("transformers", reason="The peer to agree with.")
    base = families.load(tmp_path, family, 0)
    directory = tmp_path / f"{family}-0"
    transformers.AutoConfig.from_pretrained(directory).save_pretrained(tmp_path / "all")
    values = json.loads((tmp_path / "all" / "config.json").read_text())
    values["is_causal"] = True
    unchanged = np.asarray(policy.logits(base, families.TOKENS))
    changes = [(key, edit) for key in values for edit in edits(values[key])]
    wrong = []
    for key, edit in [*changes, *((key, ...) for key in values)]:
        edited = {k: x for k, x in values.items() if k != key}
        edited |= {} if edit is ... else {key: edit}
        (directory / "config.json").write_text(json.dumps(edited))
        try:
            config = models.config_from_huggingface(edited)
            models.config_to_huggingface(config)  # What is loaded can be saved.
            found = unchanged
            if config != base.config:
                found = policy.logits(models.load(directory), families.TOKENS)
        except ValueError as error:
            assert "Received" in str(error) or "config.json" in str(error), error
            continue
        try:
            expected = families.peer_logits(directory)
        except Exception:  # Nor can `transformers` run it.
            continue
        if not np.abs(np.asarray(found) - expected).max() < 1e-4:
            wrong.append((key, edit))
    assert not wrong
