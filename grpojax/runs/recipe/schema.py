"""The schema of a recipe: every key with its default.

`load.load(Recipe(), "recipe.yaml")` reads one; `build.build` builds the arguments
of `grpojax.fit` from it. A component is given by name, or as a mapping of its name and
its arguments:

    surrogate: {name: Clip, low: 0.2, high: 0.28}

The name is exported by the corresponding `grpojax` module, or is
`package.module:object`.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_type_hints, Literal

from . import legacy
from .operation import Checkpoint, Distributed, Health, Log, Mesh, Tracking
from .values.check import check, nearest, plain
from .values.kinds import Arguments, at_least, Part, Parts, positive, Weights


@dataclass(frozen=True)
class Run:
    """Length and seed of a run, and its evaluation on held-out problems."""

    steps: int = 40
    seed: int = 0
    eval_problems: int | None = 512  # null: the whole held-out split.
    eval_samples: int = 1  # Completions of each.
    eval_temperature: float = 1.0  # 0: greedy.
    max_eval_problems: int | None = None  # Upper limit on eval_problems.
    validate: bool = False  # Check every phase's values at run time.

    def __post_init__(self):
        at_least(0, "run", steps=self.steps, seed=self.seed)
        at_least(0, "run", eval_problems=self.eval_problems)
        at_least(0, "run", eval_temperature=self.eval_temperature)
        at_least(1, "run", eval_samples=self.eval_samples)
        at_least(1, "run", max_eval_problems=self.max_eval_problems)


@dataclass(frozen=True)
class Model:
    """The model: a Llama, Mistral, Qwen2 or Qwen3; its dtypes and rematerialization."""

    path: str = "gsm8k-tiny"  # The shipped model; a directory, or a hub id.
    dtype: Literal["float32", "bfloat16"] = "float32"  # Of the weights.
    compute_dtype: Literal["float32", "bfloat16"] | None = None  # null: dtype.
    # Of keys and values while sampling; null: compute_dtype.
    cache_dtype: Literal["float32", "bfloat16", "int8"] | None = None
    # Rematerialization: each policy takes less memory and more time than the one
    # before it. Old recipes have false for elementwise, and true for layers.
    remat: Literal["nothing", "elementwise", "mlp", "layers"] | bool = "elementwise"


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters, over frozen weights; see `models.lora`."""

    rank: int | None = None  # null: no adapters; the weights are trained.
    alpha: float = 32.0  # Adapters are scaled by alpha / rank.
    projections: str = "query key value output gate up down"  # Or a subset.
    int8_base: bool = False  # Quantize the frozen projections to 8 bits.

    def __post_init__(self):
        at_least(1, "lora", rank=self.rank)
        positive("lora", alpha=self.alpha)
        if self.int8_base and self.rank is None:
            raise ValueError(
                "`lora.int8_base` freezes the weights, so adapters must be trained. "
                "Received lora.rank=null: set it."
            )


def task_options(task: str) -> type | None:
    """The dataclass of a task's options, for tasks in `envs`; needs no JAX."""
    try:
        return importlib.import_module("envs.options").OPTIONS.get(task)
    except ModuleNotFoundError:
        return None


def _default_options() -> object:
    options = task_options("gsm8k")
    return {} if options is None else options()


@dataclass(frozen=True)
class Data:
    """The task, and its options.

    `task` names a module of `envs`, or a function `package.module:function`; the other
    keys are the fields of the task's dataclass of options.
    """

    task: str = "gsm8k"
    options: Arguments | object = field(default_factory=_default_options)

    @staticmethod
    def convert(
        before: object, changes: Mapping, others: Mapping, environment: Mapping
    ) -> object:
        """The options of a task from the keys of this section.

        **Arguments:**

        - `before`: existing options, which are updated if they are of the same task.
        - `changes`: the section's other fields.
        - `others`: the remaining keys, which are the task's options.
        - `environment`: environment variables to interpolate.
        """
        task = changes["task"]
        options = task_options(task)
        if options is None:
            kept = dict(before) if isinstance(before, Mapping) else {}
            named = {x: plain(f"data.{x}", y, environment) for x, y in others.items()}
            return {**kept, **named}
        others = legacy.without_defaults(task, others)
        kinds = get_type_hints(options)
        for key in others:
            if key not in kinds:
                known = [f"data.{name}" for name in ("task", *kinds)]
                raise ValueError(
                    f"`data.{key}` is not a key of the task {task}. The nearest is "
                    f"`{nearest(f'data.{key}', known)}`; --print-config shows them all."
                )
        values = {
            key: check(f"data.{key}", kinds[key], x, environment)
            for key, x in others.items()
        }
        if isinstance(before, options):
            return replace(cast(Any, before), **values)
        return options(**values)


@dataclass(frozen=True)
class Rollout:
    """Completions that a step samples; see `grpojax.RolloutConfig`."""

    prompts: int = 16
    group: int = 8  # Completions of each prompt.
    train_prompts: int | None = None  # Prompts to train on, nonzero variance first.
    slots: int | None = None  # Rows decoded at a time; null: all of them.
    max_new_tokens: int = 40
    temperature: float = 1.0
    sampler: Part | None = None  # null: Categorical, at the temperature.

    def __post_init__(self):
        at_least(1, "rollout", prompts=self.prompts, group=self.group)
        at_least(1, "rollout", slots=self.slots, max_new_tokens=self.max_new_tokens)
        at_least(1, "rollout", train_prompts=self.train_prompts)
        positive("rollout", temperature=self.temperature)
        if self.sampler is not None and self.temperature != 1.0:
            raise ValueError(
                "`rollout.sampler` has a temperature of its own. Received "
                f"rollout.temperature={self.temperature} besides: write it there."
            )


@dataclass(frozen=True)
class Reward:
    """The reward of a completion: a weighted sum of components, then shapings.

    A component with weight 0 is logged if present, and may be absent.
    """

    weights: Weights = field(
        default_factory=lambda: Weights({"correct": 1.0, "format": 0.0})
    )
    terms: Parts = Parts(())  # Additional reward functions.
    shapings: Parts = Parts(())  # Applied to the total, first to last.

    def __post_init__(self):
        if not self.weights:
            raise ValueError(
                "`reward.weights` must name a component. Received {}: write "
                "`reward.weights.correct: 1.0`, or leave it out."
            )


@dataclass(frozen=True)
class Algorithm:
    """The algorithm: one of `grpojax.algorithms`, with components overridden.

    Other keys are arguments of the algorithm; null selects its default. Components that
    are given replace those of the algorithm.
    """

    name: str = "grpo"
    beta: float | None = None  # KL penalty to the initial model, for any algorithm.
    advantage: Part | None = None
    select: Part | None = None
    ratio: Part | None = None
    surrogate: Part | None = None
    weight: Part | None = None
    penalties: Parts | None = None
    importance: Part | None = None
    entropy_filter: Part | None = None
    off_policy_filter: Part | None = None
    entropy_bonus: float | None = None
    arguments: Arguments = field(default_factory=lambda: Arguments({}))

    def __post_init__(self):
        at_least(0, "algorithm", beta=self.beta)


@dataclass(frozen=True)
class Optimizer:
    """An optax optimizer, preceded by global-norm gradient clipping.

    Further keys are arguments of the optimizer. It computes in float32; moments and
    weights in bfloat16 are rounded stochastically, by `update.stochastic_rounding`.
    """

    name: str = "adamw"
    # A number, or a schedule of optax: {name: warmup_cosine_decay_schedule, ...}.
    learning_rate: float | Part = 5e-5
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # Decay to 0.
    warmup_updates: int = 0
    clip_norm: float | None = 1.0
    weight_decay: float = 0.0
    state_dtype: Literal["float32", "bfloat16"] | None = None  # null: model.dtype.
    arguments: Arguments = field(default_factory=lambda: Arguments({}))

    def __post_init__(self):
        if isinstance(self.learning_rate, float):
            at_least(0, "optimizer", learning_rate=self.learning_rate)
        elif self.schedule != "constant" or self.warmup_updates:
            raise ValueError(
                "`optimizer.learning_rate` is a schedule by itself. Received "
                f"optimizer.schedule={self.schedule} and optimizer.warmup_updates="
                f"{self.warmup_updates} besides: leave them at constant and 0."
            )
        at_least(0, "optimizer", warmup_updates=self.warmup_updates)
        at_least(0, "optimizer", weight_decay=self.weight_decay)
        positive("optimizer", clip_norm=self.clip_norm)


@dataclass(frozen=True)
class Update:
    """Optimizer updates of a step; see `grpojax.UpdateConfig`."""

    epochs: int = 1
    minibatches: int = 1  # Optimizer updates in each epoch.
    microbatches: int | None = None  # Gradient accumulation; null: rollout.group.
    recompute: bool | None = None  # Old log-probs; null: as the objective needs.
    chunk: int | None = None  # Positions per block of logits; null: automatic.

    def __post_init__(self):
        at_least(1, "update", epochs=self.epochs, minibatches=self.minibatches)
        at_least(1, "update", microbatches=self.microbatches, chunk=self.chunk)


@dataclass(frozen=True)
class Recipe:
    """The complete configuration of a training run."""

    run: Run = field(default_factory=Run)
    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    data: Data = field(default_factory=Data)
    rollout: Rollout = field(default_factory=Rollout)
    reward: Reward = field(default_factory=Reward)
    algorithm: Algorithm = field(default_factory=Algorithm)
    optimizer: Optimizer = field(default_factory=Optimizer)
    update: Update = field(default_factory=Update)
    mesh: Mesh = field(default_factory=Mesh)
    distributed: Distributed = field(default_factory=Distributed)
    log: Log = field(default_factory=Log)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    tracking: Tracking = field(default_factory=Tracking)
    health: Health = field(default_factory=Health)


def check_paths(recipe: Recipe) -> None:
    """Checks that the paths named in a recipe exist.

    A name such as `org/name` may be a directory or a hub id, which is resolved on
    loading. This is fast and imports nothing.

    **Raises:** `FileNotFoundError` for a path that does not exist.
    """
    options = recipe.data.options
    values = options if isinstance(options, Mapping) else vars(options)
    paths = {"model.path": recipe.model.path}
    paths |= {f"data.{key}": values.get(key) for key in ("path", "eval_path")}
    for key, path in paths.items():
        if not isinstance(path, str) or Path(path).exists():
            continue
        file = Path(path).suffix in (".jsonl", ".parquet", ".json", ".safetensors")
        if file or path.startswith(("/", "./", "../", "~")):
            raise FileNotFoundError(
                f"`{key}` must lead to a file or a directory. There is none at "
                f"{path!r}: check the path."
            )
