"""Sections of a recipe about how a run is operated: devices, logs, calls of Python."""

from dataclasses import dataclass
from typing import Annotated, Literal

from .kinds import (
    at_least,
    NonNegativeFloat,
    NonNegativeInt,
    Part,
    Parts,
    PositiveFloat,
    PositiveInt,
    Section,
)


@dataclass(frozen=True)
class Mesh(Section):
    """A mesh of data x fsdp x tensor x expert devices; see `grpojax.sharding`.

    One of them may be -1, for all remaining devices. By default the first device
    alone is used.
    """

    data: int = 1  # Data parallelism, with replicated weights.
    fsdp: int = 1  # Data parallelism, with weights sharded over the devices.
    tensor: int = 1  # Tensor parallelism.
    expert: int = 1  # Experts of a layer, split over the devices.

    def __post_init__(self):
        sizes = self.data, self.fsdp, self.tensor, self.expert
        if sizes.count(-1) > 1 or any(size < 1 for size in sizes if size != -1):
            raise ValueError(
                "`mesh.data`, `mesh.fsdp`, `mesh.tensor` and `mesh.expert` must be "
                "positive, but for one that may be -1. Received "
                f"{', '.join(map(str, sizes))}."
            )


@dataclass(frozen=True)
class Actors(Section):
    """A mesh of further devices, which sample rollouts while those of `mesh` learn.

    Rollouts are sampled ahead, for `rollout.staleness` steps.
    """

    data: NonNegativeInt = 0  # 0: rollouts are sampled on `mesh`.
    fsdp: PositiveInt = 1
    tensor: PositiveInt = 1


@dataclass(frozen=True)
class Distributed(Section):
    """Processes that compute one run together, each with its own devices.

    The options `--coordinator`, `--processes` and `--process` set them explicitly.
    """

    processes: Literal["one", "auto"] = "one"  # auto: those of a SLURM job or TPU pod.
    start_timeout: PositiveInt = 300  # Seconds that the others have to join.
    # Seconds of silence after which a process counts as dead.
    heartbeat_timeout: Annotated[int, at_least(5)] = 25


@dataclass(frozen=True)
class Log(Section):
    """What is recorded during a run."""

    every: PositiveInt = 1  # Steps whose metrics are read from the device together.
    completions: NonNegativeInt = 2  # Prompts whose completions are recorded each time.


@dataclass(frozen=True)
class Checkpoint(Section):
    """Checkpoints of a run that has a directory."""

    every: PositiveInt | None = 10  # Steps between two; null: none at all.
    keep_last: PositiveInt = 2
    keep_best: NonNegativeInt = 0
    # What is best: an evaluation, or NAME.MEASURE; null: the step's mean reward.
    best_by: str | None = None


@dataclass(frozen=True)
class Tracking(Section):
    """Experiment trackers, besides the run's directory."""

    tensorboard: bool = False
    wandb: Literal["off", "offline", "online"] = "off"
    trackio: bool = False
    project: str = "grpojax"
    name: str | None = None  # null: the run's directory.


@dataclass(frozen=True)
class Health(Section):
    """When a run warns, or stops; null switches a check off."""

    # In a row, with updates that are not finite: stop.
    skipped_steps: PositiveInt | None = 5
    # In a row, in which a reward function failed on every row: stop.
    reward_failures: PositiveInt | None = 5
    # Warn below this share of the initial value.
    entropy: NonNegativeFloat | None = 0.1
    length: NonNegativeFloat | None = 0.2
    log_prob_gap: PositiveFloat | None = 0.1  # Warn above, in nats.
    # Steps in a row in which all rows of every prompt have the same reward: warn.
    equal_rewards: PositiveInt | None = 3
    # Warn from this share of truncated rows on, in window steps in a row.
    truncated: PositiveFloat | None = 0.95
    window: PositiveInt = 5  # Steps that are averaged.


@dataclass(frozen=True)
class Warmup(Section):
    """Supervised learning of completions, `run.stage: warmup`, over rows of `data`."""

    # A column of texts, or of messages that end with the assistant's; or a template.
    completion: str | None = None  # null: the column `answer`.
    rows: PositiveInt = 64  # Of a step.
    max_tokens: PositiveInt | None = None  # Of a completion; null: of the longest.
    long_completions: Literal["raise", "skip"] = "raise"


@dataclass(frozen=True)
class Teacher(Section):
    """The frozen model of a distillation, for the penalty `Distill`."""

    path: str | None = None  # As model.path, of the same tokenizer; null: none.
    dtype: Literal["float32", "bfloat16"] | None = None  # null: model.dtype.
    bits: Literal[4, 8] | None = None  # Of its projections; null: as they are.


@dataclass(frozen=True)
class Average(Section):
    """An exponential moving average of the weights; see `grpojax.Averaging`."""

    decay: NonNegativeFloat | None = None  # null: no average.
    every: PositiveInt = 1  # Steps between two refreshes.
    reference: bool = False  # Whether it is the reference of a KL penalty.

    def __post_init__(self):
        super().__post_init__()
        if self.decay is None and self.reference:
            raise ValueError(
                "`average.reference` makes the average the reference policy. Received "
                "no `average.decay`: set it, 0 for the policy of the last refresh."
            )


@dataclass(frozen=True)
class Environment(Section):
    """Rows that Python answers or samples, over the problems of `data`.

    See `grpojax.host`, and `grpojax.runs.AgentEnvironment`.
    """

    tools: Parts = Parts(())  # Python functions that the model may call.
    factory: Part | None = None  # Or a class with `reset` and `step`, for each row.
    # Or a function of a row and a base URL, that asks the model over HTTP.
    agent: Part | None = None
    max_turns: PositiveInt = 8
    max_calls: PositiveInt = 16  # Of tools, in one conversation.
    # Of an agent's first call, tokens; null: twice the longest of the task's prompts.
    max_prompt: PositiveInt | None = None
    seconds: PositiveFloat = 60.0  # Of every call; of an agent's whole episode.
    concurrency: PositiveInt = 64  # Calls at a time, or episodes.

    def __post_init__(self):
        super().__post_init__()
        given = {
            "tools": list(self.tools),
            "factory": self.factory,
            "agent": self.agent,
        }
        given = {name: x for name, x in given.items() if x}
        if len(given) > 1:
            raise ValueError(
                "Rows are answered by `environment.tools` or `environment.factory`, or "
                f"sampled by `environment.agent`. Received {given}: leave all but one "
                "out."
            )
