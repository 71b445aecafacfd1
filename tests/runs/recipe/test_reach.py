"""Every part that the library exports can be named in a recipe that trains."""

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import optax.contrib
import pytest

from grpojax import (
    advantage,
    algorithms,
    curriculum,
    models,
    reward,
    rollout,
    update,
)
from grpojax.runs.cli import train
from grpojax.runs.recipe import build, load as recipes
from grpojax.runs.recipe.parts.lookup import names
from grpojax.runs.recipe.parts.optimizer import build_optimizer
from grpojax.runs.recipe.schema import Recipe
from grpojax.text import load_tokenizer

from ...helpers import mostly_slow


MINE = "tests.runs.recipe.user_parts"
MODULES: list[ModuleType] = [advantage, algorithms, curriculum, reward, rollout, update]

NO_PARTS = {
    "Verifiers": "composed in `test_verifiers.py`, with an environment",
    "Advantages": "a type",
    "Reference": "a type",
    "RewardFn": "a type",
    "Shaping": "a type",
    "Algorithm": "the value that `algorithm` describes",
    "Objective": "the value that `algorithm` describes",
    "RolloutConfig": "the value that `rollout` describes",
    "UpdateConfig": "the value that `update` describes",
    "WeightedSum": "what `reward.weights` and `reward.terms` describe",
    "Chain": "what `reward.shapings` describes",
    "take_nonzero_variance": "what `rollout.train_prompts` asks for",
    "with_learning_rate": "what every optimizer is wrapped in",
    "stochastic_rounding": "what `optimizer.state_dtype` asks for",
    "stochastic_round": "a function of an array, for `stochastic_rounding`",
    "FrozenJudge": "what `frozen_judge` makes, with the model of a path",
    "ByGroupId": "needs an array of identifiers, and rows that are not in groups",
    "AbstractCurriculum": "abstract",
    "AbstractPassRate": "abstract",
    "AbstractPenalty": "abstract",
    "AbstractSampler": "abstract",
    "AbstractSurrogate": "abstract",
    "Batch": "an argument of the loss",
    "LossInputs": "an argument of the loss",
    "LossWeights": "an argument of the loss",
    "Calls": "the value that the keys of a reward function describe",
    "PermanentError": "an error that a function raises",
    "text_of": "reads a completion, for functions in Python",
    "checked": "calls a reward function",
    "complete": "the phase itself",
    "generate": "the phase itself",
    "start": "the phase itself, which pauses",
    "advance": "the phase itself, which pauses",
    "answer": "the phase itself, which pauses",
    "Answers": "what it is given",
    "finish": "the phase itself, which pauses",
    "last_turn": "a part of a row",
    "Rollout": "a rollout that pauses",
    "insert": "the phase itself, with prompts of a server",
    "release": "the phase itself, with prompts of a server",
    "progress": "reads a rollout that pauses",
    "Progress": "what a rollout that pauses has sampled",
    "RowSampler": "what the requests of a server ask for",
    "Until": "when a rollout pauses",
    "SlotColumns": "a count of columns",
    "draw": "the phase itself, in two halves",
    "generate_partial": "what `rollout.partial_prompts` asks for",
    "Drawn": "prompts that were drawn",
    "PartialRows": "what the train state keeps for `rollout.partial_prompts`",
    "improve": "the phase itself",
    "inspect": "the phase itself, taken apart",
    "Inspection": "what is found when the phase is taken apart",
    "PromptInspection": "a part of an `Inspection`",
    "RowInspection": "a part of an `Inspection`",
    "log_probs": "scores a trajectory",
    "Truncated": "what `evaluations.NAME.top_k`, `top_p` and `min_p` describe",
}
"""Exported names that are no parts of a recipe, with the reason."""

KLS = [
    {"name": "KL", "coefficient": 0.01, "estimator": x}
    for x in ("absolute", "k1", "k2", "k3", "k3_with_k2_gradient")
]
HOST = {
    "name": "HostReward",
    "function": {"name": "InThread", "function": f"{MINE}:brief", "seconds": 60},
    "as": "thread",
}
WORKER = {
    "name": "HostReward",
    "function": {"name": "InProcess", "function": f"{MINE}:brief", "seconds": 60},
    "as": "process",
    "batch_size": 4,
}

RUNS: dict[str, dict[str, object]] = {
    "grpo": {
        "curriculum": "Uniform",
        "algorithm.advantage": {"name": "GroupNormalized", "eps": 1e-6},
        "algorithm.surrogate": {"name": "Clip", "low": 0.1, "high": 0.3, "dual": 3},
        "algorithm.weight": "sequence_mean",
        "algorithm.beta": 0.1,
        "reward.terms": [{"name": "SoftOverlong", "buffer": 2}, "Cosine"],
        "reward.weights": {"correct": 1, "soft_overlong": 0.5, "cosine": 0.5},
        "optimizer.learning_rate": {
            "name": "warmup_cosine_decay_schedule",
            "init_value": 0,
            "peak_value": 1e-3,
            "warmup_steps": 4,
            "decay_steps": 10,
        },
    },
    "dr_grpo": {
        "curriculum": "ShuffledEpochs",
        "algorithm.advantage": "group_centered",
        "algorithm.weight": {"name": "Constant", "length": 9},
        "reward.terms": [{"name": "Repetition", "ngram_size": 2, "as": "repeats"}],
        "reward.weights": {"correct": 1, "repeats": 1},
        "reward.shapings": [{"name": "ClipTotal", "low": -1, "high": 1}],
    },
    "bnpo": {
        "curriculum": {"name": "PassRateBand", "low": 0, "high": 0.9},
        "algorithm.advantage": {"name": "BatchScaled", "ddof": 0},
        "algorithm.select": "keep_all",
        "algorithm.weight": "nonempty_sequence_mean",
        "reward.shapings": ["drop_truncated", "zero_truncated", "exclude_truncated"],
    },
    "dapo": {
        "curriculum": {"name": "Learnability", "component": "format", "floor": 1},
        "algorithm.advantage": {"name": "DapoMix", "alpha": 0.3},
        "algorithm.select": "nonzero_variance",
        "algorithm.weight": "token_mean",
        "rollout.train_prompts": 1,
        "rollout.partial_prompts": 2,
    },
    "gspo": {
        "rollout.staleness": 1,
        "actors.data": 1,
        "algorithm.advantage": "Gdpo",
        "algorithm.ratio": "sequence_token_ratio",
        "algorithm.importance": {"name": "Importance", "level": "token", "cap": 2},
        "algorithm.entropy_filter": {"name": "TopEntropy", "share": 0.5},
        "algorithm.off_policy_filter": {
            "name": "OffPolicySequenceMask",
            "threshold": 1,
        },
        "algorithm.entropy_bonus": 0.01,
    },
    "cispo": {
        "algorithm.surrogate": {"name": "Cispo", "cap": 4, "floor": 0.5},
        "algorithm.advantage": {"name": "BestOfGroup", "eps": 1e-5},
        "algorithm.weight": {"name": "Total", "divisor": 8},
    },
    "rloo": {
        "algorithm.advantage": "leave_one_out",
        "algorithm.surrogate": "Reinforce",
        "algorithm.weight": "sequence_sum",
        "reward.terms": [{"name": "KLReward", "estimator": "k1", "weight": -0.05}],
    },
    "reinforce": {
        "algorithm.advantage": {"name": "BatchNormalized", "eps": 1e-3},
        "algorithm.ratio": {"name": "ClampedTokenRatio", "bound": 10},
        "algorithm.penalties": KLS,
        "reward.terms": [HOST, WORKER],
        "reward.weights": {"correct": 1, "thread": 0.1, "process": 0.1},
    },
    "reinforce_plus_plus": {
        "algorithm.advantage": {"name": "ReinforcePlusPlus", "group_baseline": True},
        "algorithm.select": {"name": "NonzeroVariancePrompts", "count": 1},
        "algorithm.weight": "prompt_mean",
    },
    "sapo": {
        "algorithm.surrogate": {"name": "Sapo", "positive": 2},
        "algorithm.ratio": "token_ratio",
        "rollout.sampler": {"name": "Categorical", "temperature": 0.5},
    },
    "vespo": {
        "algorithm.surrogate": {"name": "Vespo", "k_positive": 1},
        "rollout.sampler": "Greedy",
        "rollout.behavior": "quantize",
    },
    "luspo": {"algorithm.ratio": "sequence_ratio", "optimizer.name": "lion"},
    "gmpo": {
        "algorithm.surrogate": {"name": "Gmpo", "low": 0.3},
        "rollout.behavior": {"name": "quantize", "bits": 4},
    },
    "opo": {"algorithm.advantage": "opo", "reward.shapings": ["shuffled"]},
    f"{MINE}:plain": {
        "curriculum": {"name": f"{MINE}:OneByOne", "start": 2},
        "algorithm.scale": 0.5,
        "algorithm.advantage": f"{MINE}:signs",
        "algorithm.select": f"{MINE}:better",
        "algorithm.ratio": f"{MINE}:no_ratio",
        "algorithm.weight": f"{MINE}:even",
        "rollout.sampler": {"name": f"{MINE}:Mixed", "temperature": 0.9},
        "rollout.behavior": f"{MINE}:coarse",
        "reward.terms": [
            f"{MINE}:length",
            f"{MINE}:brief",
            {"name": f"{MINE}:brief", "most": 3, "as": "very_brief"},
            {"name": f"{MINE}:Short", "most": 3},
            {
                "name": "HostReward",
                "function": f"{MINE}:near",
                "columns": f"{MINE}:answers",
                "as": "near",
            },
        ],
        "reward.weights": {"length": 0.1, "brief": 1, "short": 1, "near": 1},
        "reward.shapings": [f"{MINE}:halved", {"name": f"{MINE}:Scaled", "factor": 2}],
        "optimizer.name": f"{MINE}:heavy_ball",
        "optimizer.decay": 0.5,
        "optimizer.learning_rate": {"name": f"{MINE}:ramp", "until": 10},
    },
    # With the default weights, and an environment that pays `correct` alone.
    "grpo of a task": {
        "data": {"task": f"{MINE}:sums", "split": "train", "rows": 2},
        "algorithm.name": "grpo",
        "reward.terms": [
            {"name": "Regex", "pattern": "[0-9]", "weight": 0.1, "as": "digit"},
            {"name": "ExactMatch", "pattern": "[0-9]+", "weight": 1},
            {"name": "CodeTests", "seconds": 5, "memory": 256},
            {"name": f"{MINE}:like_answer", "scale": 2, "weight": 1, "batch_size": 2},
            {"name": f"{MINE}:Begins", "text": " ", "batch_size": 1, "seconds": 60},
            {
                "name": "Judge",
                "url": "http://127.0.0.1:9/v1",  # Nobody is there.
                "model": "small",
                "template": "{{ answer }} {{ completion }}",
                "retries": 0,
                "weight": 0.5,
            },
        ],
    },
    "grpo of turns": {
        "data": {"task": "games.guess_number", "train_rows": 4, "turns": 2},
        "algorithm.name": "grpo",
        "algorithm.advantage": {"name": "ByTurn", "estimator": "group_centered"},
        "reward.weights": {"correct": 1, "valid": 1},
        "reward.shapings": [{"name": "DiscountTurns", "discount": 0.9}],
    },
    "grpo of a mixture": {
        "data": {
            "task": "mixture",
            "tasks": [
                {"task": "gsm8k", "train_rows": 4},
                {"task": f"{MINE}:sums", "split": "train", "rows": 2, "name": "sums"},
            ],
        },
        "curriculum": {"name": "Mixture", "weights": {"gsm8k": 1, "sums": 2}},
        "algorithm.name": "grpo",
        "algorithm.advantage": {"name": "TurnNormalized", "discount": 0.5},
    },
    "grpo of a teacher": {
        "teacher.path": "gsm8k-tiny",
        "algorithm.name": "grpo",
        "algorithm.advantage": "zero",
        "algorithm.penalties": [{"name": "Distill", "coefficient": 0.5}],
    },
    "grpo of experts": {
        "algorithm.name": "grpo",
        "algorithm.penalties": [{"name": "LoadBalance", "coefficient": 0.01}, "KL"],
    },
}
OPTIONAL = {
    "math_verify": "math_verify",
    "jsonschema": "JSONSchema",
    "reasoning_gym": "ReasoningGym",
}


def installed(package: str) -> bool:
    """Whether an optional package can be imported."""
    return importlib.util.find_spec(package) is not None


if installed("jsonschema"):
    RUNS["luspo"] |= {"reward.terms": [{"name": "JSONSchema", "schema": {}}]}
if installed("math_verify"):
    RUNS["opo"] |= {
        "reward.terms": ["math_verify"],
        "reward.weights": {"correct": 1, "math_verify": 1},
    }
if installed("reasoning_gym"):
    RUNS["grpo of reasoning-gym"] = {
        "data": {
            "task": "questions",
            "path": "reasoning_gym:chain_sum",
            "answer": "NoAnswer",
            "train_rows": 4,
        },
        "algorithm.name": "grpo",
        "reward.terms": [{"name": "ReasoningGym", "weight": 1}],
    }


def mixture_of_experts(directory: Path) -> Path:
    """The shipped model's shape and tokenizer, with random experts."""
    shipped = resources.files("grpojax") / "assets" / "gsm8k-tiny"
    config = models.load(shipped).config
    block = models.Block(experts=models.Experts(count=4, chosen=2, size=8))
    kind = dict(block=block, family="qwen3_moe", qk_norm=True, tied=False)
    config = dataclasses.replace(config, qkv_bias=False, **kind)
    model = models.Transformer(config, key=jr.key(0))
    models.save(model, directory, tokenizer=load_tokenizer(shipped))
    return directory


def recipe_of(name: str, settings, *more: str) -> Recipe:
    """The recipe of a run, small; the parts are written as YAML."""
    changes = {"algorithm.name": name, **RUNS[name]}
    words = settings(run__eval_problems=0, update__minibatches=1)
    if "data" in changes:
        words = [word for word in words if not word.startswith("data.")]
    for key, value in changes.items():
        values = recipes.yaml_format.write({"_": value}).removeprefix("_:")
        # The indentation of a block is a part of it.
        is_block = "\n" in values.strip()
        words.append(f"{key}={values if is_block else values.strip()}")
    return recipes.load(Recipe(), None, [*words, *more])


def described(value: object) -> Iterator[str]:
    """All texts in a description: names of parts among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from described(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from described(inner)


# What differs most: filters, rewards of every kind, 8 bits to sample, parts of one's
# own, and tasks.
FAST = ["dapo", "reinforce", f"{MINE}:plain", "grpo of a task", "grpo of a mixture"]


@pytest.mark.parametrize("name", mostly_slow(RUNS, FAST))
def test_a_recipe_of_parts_takes_two_steps(name, settings, tmp_path):
    is_mixture = name == "grpo of experts"
    more = [f"model.path={mixture_of_experts(tmp_path)}"] if is_mixture else []
    recipe = recipe_of(name, settings, *more)
    build.check(recipe)
    prepared = train.prepare(recipe)
    step, state = prepared.step.compile(), prepared.state
    for _ in range(2):
        state, metrics, _ = step.call(state)
        assert jnp.isfinite(metrics["loss"]) and jnp.isfinite(metrics["grad_norm"])
    assert int(state.version) == 2
    rates = {"grpo": 1e-3 / 4, f"{MINE}:plain": 1e-3 / 10}
    expected = rates.get(name, 5e-5)
    assert float(metrics["learning_rate"]) == pytest.approx(expected)
    weights = recipe.reward.weights
    for component in {x for x in weights if weights[x]}:
        assert f"rewards/{component}/mean" in metrics


def test_every_exported_name_is_composed_or_is_no_part(settings):
    """A new part belongs into one of the runs above, or on the list with a reason."""
    composed = set()
    for name in RUNS:
        recipe = recipe_of(name, settings)
        build.check(recipe)
        composed |= set(described(recipes.to_mapping(recipe)))
    # Those whose optional package is not installed.
    composed |= {part for package, part in OPTIONAL.items() if not installed(package)}
    exported = {
        name
        for module in MODULES
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert exported - composed - NO_PARTS.keys() == set()
    assert NO_PARTS.keys() - exported == set()
    assert NO_PARTS.keys() & composed == set()
    # What is exported and can be called can be named.
    assert exported - set(names(MODULES)) <= {"RewardFn", "Shaping", "Reference"}


def updates(*assignments: str) -> dict:
    """Two updates of a small tree."""
    optimizer = build_optimizer(recipes.load(Recipe(), None, assignments))
    weights = {"matrix": jnp.linspace(0.1, 1, 6).reshape(2, 3), "bias": jnp.ones(3)}
    return _updates(optimizer, weights)


def _updates(optimizer: optax.GradientTransformation, weights: dict) -> dict:
    state, update = optimizer.init(weights), weights
    for _ in range(2):
        gradient = jax.tree.map(lambda x: x / 3, weights)
        update, state = optimizer.update(gradient, state, weights)
    return update


RATE = "optimizer.learning_rate=0.01"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], optax.adamw(0.01, weight_decay=0.0)),
        (["optimizer.b1=0.5", "optimizer.nesterov=true"],
         optax.adamw(0.01, b1=0.5, nesterov=True, weight_decay=0.0)),
        (["optimizer.name=adam"], optax.adam(0.01)),
        (["optimizer.name=lion", "optimizer.weight_decay=0.1"],
         optax.lion(0.01, weight_decay=0.1)),
        (["optimizer.name=adafactor", "optimizer.decay_rate=0.7"],
         optax.adafactor(0.01, decay_rate=0.7)),
        (["optimizer.name=muon"], optax.contrib.muon(0.01)),
        (["optimizer.name=sgd", "optimizer.momentum=0.9"], optax.sgd(0.01, 0.9)),
        (["optimizer.name=sgd", "optimizer.learning_rate={name: cosine_decay_schedule,"
          " init_value: 0.1, decay_steps: 5}"],
         optax.sgd(optax.cosine_decay_schedule(0.1, 5))),
        (["optimizer.name=sgd", "optimizer.learning_rate={name: join_schedules,"
          " schedules: [{name: linear_schedule, init_value: 0, end_value: 1,"
          " transition_steps: 3}, {name: constant_schedule, value: 1}],"
          " boundaries: [3]}"],
         optax.sgd(optax.linear_schedule(0, 1, 3))),
        ([f"optimizer.name={MINE}:heavy_ball"], optax.sgd(0.01, 0.9)),
    ],
    ids=lambda x: x[0] if isinstance(x, list) and x else None,
)  # fmt: skip
def test_optimizers_and_schedules_of_optax(words, expected):
    weights = {"matrix": jnp.linspace(0.1, 1, 6).reshape(2, 3), "bias": jnp.ones(3)}
    clipped = optax.chain(optax.clip_by_global_norm(1.0), expected)
    found = updates(RATE, *words)
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(_updates(clipped, weights)), strict=True
    ):
        assert jnp.array_equal(one, other) and jnp.any(one != 0)


def test_an_optimizer_that_is_unclipped_and_one_that_is_kept_in_bfloat16():
    bare = updates(RATE, "optimizer.name=sgd", "optimizer.clip_norm=null")
    assert bare["bias"] == pytest.approx(-0.01 / 3)
    for name in ("adamw", "lion", "sgd"):
        settings = [f"optimizer.name={name}", "optimizer.state_dtype=bfloat16"]
        assert jnp.all(updates(RATE, *settings)["bias"] < 0)
