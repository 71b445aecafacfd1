"""The schema of a recipe: every key with its kind and its default.

`load.load(Recipe(), "recipe.yaml")` reads one; `build.build` builds the arguments
of `grpojax.fit` from it. A component is given by name, or as a mapping of its name and
its arguments, `surrogate: {name: Clip, low: 0.2}`. The name is exported by the
corresponding `grpojax` module, or is `package.module:object`.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast, Literal

from .kinds import (
    Arguments,
    check_options,
    Choices,
    kinds_of,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    Parts,
    plain,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
    Weights,
)
from .operation import (
    Actors,
    Average,
    Checkpoint,
    Distributed,
    Environment,
    Health,
    Log,
    Mesh,
    Teacher,
    Tracking,
    Warmup,
)
from .parts.evaluation_section import Evaluations


DType = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Run(Section):
    """Length and seed of a run."""

    steps: NonNegativeInt = 40
    stage: Literal["train", "warmup"] = "train"  # Or supervised, as `warmup` says.
    seed: Seed = 0
    seeds: PositiveInt | None = None  # Runs, of this seed and the next; null: one.
    validate: bool = False  # Check every phase's values at run time.
    # Whether compiled programs are kept in the user's cache folder; or a folder's path.
    compile_cache: bool | str = True


@dataclass(frozen=True)
class Model(Section):
    """The model: a Llama, Mistral, Qwen2 or Qwen3; its dtypes and rematerialization."""

    path: str = "gsm8k-tiny"  # The shipped model; a directory, or a hub id.
    dtype: DType = "float32"  # Of the weights.
    compute_dtype: DType | None = None  # null: dtype.
    # Of keys and values while sampling; null: compute_dtype.
    cache_dtype: Literal["float32", "bfloat16", "int8"] | None = None
    # Rematerialization: each policy takes less memory and more time than the one
    # before it.
    remat: Literal["nothing", "elementwise", "mlp", "layers"] = "elementwise"


@dataclass(frozen=True)
class Lora(Section):
    """Low-rank adapters, over frozen weights; see `models.lora`."""

    rank: PositiveInt | None = None  # null: no adapters; the weights are trained.
    alpha: PositiveFloat = 32.0  # Adapters are scaled by alpha / rank.
    projections: str = "query key value output gate up down"  # Or a subset.
    # Quantize the frozen projections: to 4 bits as QLoRA, or to 8; null: as they are.
    base_bits: Literal[4, 8] | None = None
    path: str | None = (
        None  # Adapters in PEFT's format to start from, in place of rank.
    )

    def __post_init__(self):
        super().__post_init__()
        if self.rank is not None and self.path is not None:
            raise ValueError(
                "Adapters are new, with `lora.rank`, or those of `lora.path`. Received "
                f"lora.rank={self.rank} and lora.path={self.path!r}: leave one null."
            )
        if self.base_bits is not None and not self.adapts:
            raise ValueError(
                "`lora.base_bits` freezes the weights, so adapters must be trained. "
                f"Received lora.base_bits={self.base_bits} with lora.rank=null: set it."
            )

    @property
    def adapts(self) -> bool:
        """Whether adapters are trained, and the weights are frozen."""
        return self.rank is not None or self.path is not None


def known_tasks() -> Mapping[str, type]:
    """The tasks in `envs`, with the dataclasses of their options; needs no JAX."""
    try:
        return importlib.import_module("envs.options").OPTIONS
    except ModuleNotFoundError:
        return {}


def _default_options() -> object:
    return known_tasks().get("gsm8k", dict)()


@dataclass(frozen=True)
class Data(Section):
    """The task, and its options.

    `task` names a module of `envs`, or a function `package.module:function`; the other
    keys are the fields of the task's dataclass of options.
    """

    task: str = "gsm8k"
    options: Arguments | object = field(default_factory=_default_options)

    def option(self, name: str, default: object = None) -> Any:
        """One of the options, or the default if the task has none of that name."""
        options = self.options
        values = options if isinstance(options, Mapping) else vars(options)
        return values.get(name, default)

    def with_arguments(self, given: Mapping, environment: Mapping[str, str]) -> "Data":
        """The section with options that are given; those of another task go."""
        kind, before = known_tasks().get(self.task), cast(Any, self.options)
        if kind is None:
            kept = before if isinstance(before, Mapping) else {}
            given = {x: plain(f"data.{x}", y, environment) for x, y in given.items()}
            return replace(self, options={**kept, **given})
        # Once all tasks had the keys of `gsm8k`: older recipes have them at their
        # defaults for tasks that ignore them.
        old, known = vars(_default_options()), kinds_of(kind)
        given = {
            key: value
            for key, value in given.items()
            if key in known or key not in old or old[key] != value
        }
        values = check_options(kind, given, environment, self.task)
        before = before if isinstance(before, kind) else kind()
        return replace(self, options=replace(before, **values))


@dataclass(frozen=True)
class Rollout(Section):
    """Completions that a step samples; see `grpojax.RolloutConfig`."""

    prompts: PositiveInt = 16
    group: PositiveInt = 8  # Completions of each prompt.
    # Prompts to train on, nonzero variance first.
    train_prompts: PositiveInt | None = None
    slots: PositiveInt | None = None  # Rows decoded at a time; null: all of them.
    cache_tokens: PositiveInt | None = None  # Of all slots; null: of every horizon.
    max_new_tokens: PositiveInt = 40
    temperature: PositiveFloat = 1.0
    sampler: Part | None = None  # null: Categorical, at the temperature.
    # Derives the policy that samples, such as quantize; null: the trained policy.
    behavior: Part | None = None
    partial_prompts: NonNegativeInt = 0  # Sampled besides; they go on in the next step.
    staleness: NonNegativeInt = 0  # The policy that samples is so many versions older.

    def __post_init__(self):
        super().__post_init__()
        if self.sampler is not None and self.temperature != 1.0:
            raise ValueError(
                "`rollout.sampler` has a temperature of its own. Received "
                f"rollout.temperature={self.temperature} besides: write it there."
            )


@dataclass(frozen=True)
class Reward(Section):
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
class Algorithm(Section):
    """The algorithm: one of `grpojax.algorithms`, with components overridden.

    Other keys are arguments of the algorithm; null selects its default. Components that
    are given replace those of the algorithm.
    """

    name: str = "grpo"
    # KL penalty to the initial model, for any algorithm.
    beta: NonNegativeFloat | None = None
    advantage: Part | None = None
    select: Part | None = None
    ratio: Part | None = None
    surrogate: Part | None = None
    weight: Part | None = None
    penalties: Parts | None = None
    # null: none; with `rollout.staleness`, Importance of tokens up to 5.
    importance: Part | None = None
    entropy_filter: Part | None = None
    off_policy_filter: Part | None = None
    entropy_bonus: float | None = None
    arguments: Arguments = field(default_factory=lambda: Arguments({}))


@dataclass(frozen=True)
class Optimizer(Section):
    """An optax optimizer, preceded by global-norm gradient clipping.

    Further keys are arguments of the optimizer. It computes in float32; moments and
    weights in bfloat16 are rounded stochastically, by `update.stochastic_rounding`.
    """

    name: str = "adamw"
    # A number, or a schedule of optax: {name: warmup_cosine_decay_schedule, ...}.
    learning_rate: NonNegativeFloat | Part = 5e-5
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # Decay to 0.
    warmup_updates: NonNegativeInt = 0
    clip_norm: PositiveFloat | None = 1.0
    weight_decay: NonNegativeFloat = 0.0
    state_dtype: DType | None = None  # null: model.dtype.
    arguments: Arguments = field(default_factory=lambda: Arguments({}))

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.learning_rate, float):
            return
        if self.schedule != "constant" or self.warmup_updates:
            raise ValueError(
                "`optimizer.learning_rate` is a schedule by itself. Received "
                f"optimizer.schedule={self.schedule} and optimizer.warmup_updates="
                f"{self.warmup_updates} besides: leave them at constant and 0."
            )


@dataclass(frozen=True)
class Update(Section):
    """Optimizer updates of a step; see `grpojax.UpdateConfig`."""

    epochs: PositiveInt = 1
    minibatches: PositiveInt = 1  # Optimizer updates in each epoch.
    tokens: PositiveInt | None = None  # Of a microbatch; null: by the platform.
    microbatches: PositiveInt | None = None  # The same, as a share; null: tokens.
    recompute: bool | None = None  # Old log-probs; null: as the objective needs.
    chunk: PositiveInt | None = None  # Positions per block of logits; null: automatic.


@dataclass(frozen=True)
class Recipe:
    """The complete configuration of a training run."""

    run: Run = field(default_factory=Run)
    sweep: Choices | None = None  # A run for each value of a key; null: one.
    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    data: Data = field(default_factory=Data)
    # What is asked next; null: as the task says, shuffled epochs for rows of a file.
    curriculum: Part | None = None
    environment: Environment = field(default_factory=Environment)
    evaluations: Evaluations = field(default_factory=Evaluations)
    warmup: Warmup = field(default_factory=Warmup)
    rollout: Rollout = field(default_factory=Rollout)
    reward: Reward = field(default_factory=Reward)
    algorithm: Algorithm = field(default_factory=Algorithm)
    teacher: Teacher = field(default_factory=Teacher)
    average: Average = field(default_factory=Average)
    optimizer: Optimizer = field(default_factory=Optimizer)
    update: Update = field(default_factory=Update)
    mesh: Mesh = field(default_factory=Mesh)
    actors: Actors = field(default_factory=Actors)
    distributed: Distributed = field(default_factory=Distributed)
    log: Log = field(default_factory=Log)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    tracking: Tracking = field(default_factory=Tracking)
    health: Health = field(default_factory=Health)
