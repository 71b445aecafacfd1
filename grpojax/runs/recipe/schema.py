"""What a run is: every key of a recipe, with its default.

`recipes.load(Recipe(), "recipe.yaml")` reads one; `parts` turns it into what runs.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


def _at_least(minimum: int, section: str, **values: float | int | None) -> None:
    for key, value in values.items():
        if value is not None and value < minimum:
            raise ValueError(
                f"`{section}.{key}` must be at least {minimum}. Received {value}."
            )


def _positive(section: str, **values: float | int | None) -> None:
    for key, value in values.items():
        if value is not None and value <= 0:
            raise ValueError(f"`{section}.{key}` must be positive. Received {value}.")


@dataclass(frozen=True)
class Run:
    """How long, from which seed, and how it is judged on problems held out."""

    steps: int = 40
    seed: int = 0
    eval_problems: int | None = 512  # null: all that the held-out split has.
    eval_samples: int = 1  # Completions of each.
    eval_temperature: float = 1.0  # 0: the likeliest token.
    max_eval_problems: int | None = None  # Judge the first ones only.

    def __post_init__(self):
        _at_least(0, "run", steps=self.steps, seed=self.seed)
        _at_least(0, "run", eval_problems=self.eval_problems)
        _at_least(0, "run", eval_temperature=self.eval_temperature)
        _at_least(1, "run", eval_samples=self.eval_samples)
        _at_least(1, "run", max_eval_problems=self.max_eval_problems)


@dataclass(frozen=True)
class Model:
    """A Llama, Mistral, Qwen2 or Qwen3."""

    path: str = "gsm8k-tiny"  # The one that is shipped; a directory, or a hub id.
    dtype: Literal["float32", "bfloat16"] = "float32"  # Of the weights.
    compute_dtype: Literal["float32", "bfloat16"] | None = None  # null: dtype.
    # Of keys and values while sampling; null: compute_dtype.
    cache_dtype: Literal["float32", "bfloat16", "int8"] | None = None
    # What the backward pass computes again: the later, the less memory and the more
    # time. Recipes of old say false for elementwise, and true for layers.
    remat: Literal["nothing", "elementwise", "mlp", "layers"] | bool = "elementwise"


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters, which are then all that is trained; see `models.lora`."""

    rank: int | None = None  # null: no adapters; the weights are trained.
    alpha: float = 32.0  # What is learned is scaled by alpha / rank.
    projections: str = "query key value output gate up down"  # Or some of these.
    int8_base: bool = False  # Keep the projections that are not trained in 8 bits.

    def __post_init__(self):
        _at_least(1, "lora", rank=self.rank)
        _positive("lora", alpha=self.alpha)
        if self.int8_base and self.rank is None:
            raise ValueError(
                "`lora.int8_base` freezes the weights, so something else must be "
                "trained. Received lora.rank=null: set it."
            )


@dataclass(frozen=True)
class Data:
    """Problems, and how they are put to the model.

    `task` names what makes environments of all this: `envs.<task>.environments`, or a
    function of yours with the same arguments, written `package.module:function`.
    """

    task: str = "gsm8k"
    path: str = "word-problems"  # Made up; a file, a folder, or openai/gsm8k.
    eval_path: str | None = None  # null: path's test split, or a file's first rows.
    train_rows: int | None = None  # null: all, or 8,192 made-up ones.
    bad_rows: Literal["raise", "skip"] = "raise"
    long_prompts: Literal["raise", "skip"] = "raise"
    max_prompt_length: int | None = None  # In tokens; null: the longest prompt's.
    chat: bool = False  # The tokenizer's chat template, or plain text.
    system_prompt: str | None = None
    shots: int = 0  # Training problems that are shown, with their answers.
    answer_format: Literal["####", "tag"] = "####"
    stop: str | None = None  # Tokens that contain it end a completion, too.

    def __post_init__(self):
        _at_least(1, "data", train_rows=self.train_rows)
        _at_least(1, "data", max_prompt_length=self.max_prompt_length)
        _at_least(0, "data", shots=self.shots)


@dataclass(frozen=True)
class Rollout:
    """What a step samples."""

    prompts: int = 16
    group: int = 8  # Samples of each prompt.
    slots: int | None = None  # Decoded at a time; null: all of them.
    max_new_tokens: int = 40
    temperature: float = 1.0

    def __post_init__(self):
        _at_least(1, "rollout", prompts=self.prompts, group=self.group)
        _at_least(1, "rollout", slots=self.slots, max_new_tokens=self.max_new_tokens)
        _positive("rollout", temperature=self.temperature)


@dataclass(frozen=True)
class Reward:
    """What a completion is worth."""

    correct: float = 1.0
    format: float = 0.0
    truncated: Literal["keep", "zero", "drop"] = "keep"  # Rows that were cut short.
    shuffle: bool = False  # A control: every prompt is paid for another's answers.


@dataclass(frozen=True)
class Algorithm:
    """How rewards become a gradient: one of `grpojax.algorithms` and its numbers.

    A number that is null is the algorithm's own; one that it has not is refused.
    """

    name: Literal[
        "grpo",
        "dr_grpo",
        "bnpo",
        "dapo",
        "gspo",
        "cispo",
        "rloo",
        "reinforce",
        "reinforce_plus_plus",
        "sapo",
        "vespo",
        "luspo",
        "gmpo",
        "opo",
    ] = "grpo"
    low: float | None = None  # How far the ratio may move from 1, down
    high: float | None = None  # and up.
    beta: float | None = None  # The KL penalty to the model as it was at first.
    cap: float | None = None
    floor: float | None = None
    positive: float | None = None
    negative: float | None = None

    def __post_init__(self):
        _at_least(0, "algorithm", low=self.low, high=self.high, beta=self.beta)


@dataclass(frozen=True)
class Optimizer:
    """AdamW after a clip of the gradient's norm; schedules count its updates.

    It computes in float32. Where its moments, or the weights, are bfloat16, they are
    rounded at random: `update.stochastic_rounding`.
    """

    learning_rate: float = 5e-5
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_updates: int = 0
    clip_norm: float | None = 1.0
    weight_decay: float = 0.0
    state_dtype: Literal["float32", "bfloat16"] | None = None  # null: model.dtype.

    def __post_init__(self):
        _at_least(0, "optimizer", learning_rate=self.learning_rate)
        _at_least(0, "optimizer", warmup_updates=self.warmup_updates)
        _at_least(0, "optimizer", weight_decay=self.weight_decay)
        _positive("optimizer", clip_norm=self.clip_norm)


@dataclass(frozen=True)
class Update:
    """How a step's samples are used."""

    train_prompts: int | None = None  # Go on with so many, the informative ones first.
    epochs: int = 1
    minibatches: int = 1  # Optimizer updates in each epoch.
    microbatches: int | None = None  # For memory; null: a row of each prompt.
    recompute: bool = False  # Old log-probabilities anew, or those of the sampler.
    chunk: int | None = None  # Positions whose logits exist at a time; null: as fits.

    def __post_init__(self):
        _at_least(1, "update", epochs=self.epochs, minibatches=self.minibatches)
        _at_least(1, "update", microbatches=self.microbatches, chunk=self.chunk)
        _at_least(1, "update", train_prompts=self.train_prompts)


@dataclass(frozen=True)
class Mesh:
    """The devices that compute: data x fsdp x tensor of them; see `grpojax.sharding`.

    One of the three may be -1, for all that are left. One device, the first, is the
    default, however many there are.
    """

    data: int = 1  # Parts of the batch that each hold all of the weights.
    fsdp: int = 1  # Parts of the batch that the weights are cut over.
    tensor: int = 1  # Parts that every layer is cut in.

    def __post_init__(self):
        sizes = self.data, self.fsdp, self.tensor
        if sizes.count(-1) > 1 or any(size < 1 for size in sizes if size != -1):
            raise ValueError(
                "`mesh.data`, `mesh.fsdp` and `mesh.tensor` must be positive, but for "
                f"one that may be -1. Received {self.data}, {self.fsdp}, {self.tensor}."
            )


@dataclass(frozen=True)
class Distributed:
    """Processes that compute one run together, each with devices of its own.

    The options `--coordinator`, `--processes` and `--process` say who they are where it
    cannot be found out.
    """

    processes: Literal["one", "auto"] = "one"  # auto: those of a SLURM job or TPU pod.
    start_timeout: int = 300  # Seconds that the others have to come.
    heartbeat_timeout: int = 25  # Seconds of silence after which one counts as dead.

    def __post_init__(self):
        _at_least(1, "distributed", start_timeout=self.start_timeout)
        _at_least(5, "distributed", heartbeat_timeout=self.heartbeat_timeout)


@dataclass(frozen=True)
class Log:
    """What is written down while a run goes on."""

    every: int = 1  # Steps whose metrics are read from the device together.
    completions: int = 2  # Prompts whose completions are kept each time; 0: none.

    def __post_init__(self):
        _at_least(1, "log", every=self.every)
        _at_least(0, "log", completions=self.completions)


@dataclass(frozen=True)
class Checkpoint:
    """States to go on from, for a run that has a directory."""

    every: int | None = 10  # Steps between two; null: none at all.
    keep_last: int = 2
    keep_best: int = 0  # By the step's mean reward.

    def __post_init__(self):
        _at_least(1, "checkpoint", every=self.every, keep_last=self.keep_last)
        _at_least(0, "checkpoint", keep_best=self.keep_best)


@dataclass(frozen=True)
class Tracking:
    """Where metrics and completions go besides the run's directory."""

    tensorboard: bool = False
    wandb: Literal["off", "offline", "online"] = "off"
    trackio: bool = False
    project: str = "grpojax"
    name: str | None = None  # null: the run's directory.


@dataclass(frozen=True)
class Guard:
    """When a run warns, or stops; null switches a check off. See `guards.Bounds`."""

    skipped_steps: int | None = 5  # In a row, with nothing finite: stop.
    entropy: float | None = 0.1  # Warn below this share of what it was at first.
    length: float | None = 0.2
    log_prob_gap: float | None = 0.1  # Warn above, in nats.
    window: int = 5  # Steps that are averaged.

    def __post_init__(self):
        _at_least(1, "guard", skipped_steps=self.skipped_steps, window=self.window)
        _at_least(0, "guard", entropy=self.entropy, length=self.length)
        _positive("guard", log_prob_gap=self.log_prob_gap)


@dataclass(frozen=True)
class Recipe:
    """A run."""

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
    guard: Guard = field(default_factory=Guard)

    def __post_init__(self):
        if self.reward.shuffle and self.rollout.prompts < 2:
            raise ValueError(
                "`reward.shuffle` pays a prompt for another's answers, so a step needs "
                f"two prompts. Received rollout.prompts={self.rollout.prompts}."
            )


def check_paths(recipe: Recipe) -> None:
    """Looks for the files of a recipe that cannot be anything but files.

    A name such as `org/name` may be a directory or an id on the hub; whoever loads it
    finds out. This takes no time and imports nothing.

    **Raises:** `FileNotFoundError` for a path that leads nowhere.
    """
    for key, path in (
        ("model.path", recipe.model.path),
        ("data.path", recipe.data.path),
        ("data.eval_path", recipe.data.eval_path),
    ):
        if path is None or Path(path).exists():
            continue
        file = Path(path).suffix in (".jsonl", ".parquet", ".json", ".safetensors")
        if file or path.startswith(("/", "./", "../", "~")):
            raise FileNotFoundError(
                f"`{key}` must lead to a file or a directory. There is none at "
                f"{path!r}: check the path."
            )
