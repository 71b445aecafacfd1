"""Sections of a recipe about how a run is operated: devices, logs, checkpoints."""

from dataclasses import dataclass
from typing import Literal

from .values.kinds import at_least, positive


@dataclass(frozen=True)
class Mesh:
    """A mesh of data x fsdp x tensor devices; see `grpojax.sharding`.

    One of the three may be -1, for all remaining devices. By default the first device
    alone is used.
    """

    data: int = 1  # Data parallelism, with replicated weights.
    fsdp: int = 1  # Data parallelism, with weights sharded over the devices.
    tensor: int = 1  # Tensor parallelism.

    def __post_init__(self):
        sizes = self.data, self.fsdp, self.tensor
        if sizes.count(-1) > 1 or any(size < 1 for size in sizes if size != -1):
            raise ValueError(
                "`mesh.data`, `mesh.fsdp` and `mesh.tensor` must be positive, but for "
                f"one that may be -1. Received {self.data}, {self.fsdp}, {self.tensor}."
            )


@dataclass(frozen=True)
class Distributed:
    """Processes that compute one run together, each with its own devices.

    The options `--coordinator`, `--processes` and `--process` set them explicitly.
    """

    processes: Literal["one", "auto"] = "one"  # auto: those of a SLURM job or TPU pod.
    start_timeout: int = 300  # Seconds that the others have to join.
    heartbeat_timeout: int = 25  # Seconds of silence after which one counts as dead.

    def __post_init__(self):
        at_least(1, "distributed", start_timeout=self.start_timeout)
        at_least(5, "distributed", heartbeat_timeout=self.heartbeat_timeout)


@dataclass(frozen=True)
class Log:
    """What is recorded during a run."""

    every: int = 1  # Steps whose metrics are read from the device together.
    completions: int = 2  # Prompts whose completions are recorded each time; 0: none.

    def __post_init__(self):
        at_least(1, "log", every=self.every)
        at_least(0, "log", completions=self.completions)


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoints of a run that has a directory."""

    every: int | None = 10  # Steps between two; null: none at all.
    keep_last: int = 2
    keep_best: int = 0  # By mean reward.

    def __post_init__(self):
        at_least(1, "checkpoint", every=self.every, keep_last=self.keep_last)
        at_least(0, "checkpoint", keep_best=self.keep_best)


@dataclass(frozen=True)
class Tracking:
    """Experiment trackers, besides the run's directory."""

    tensorboard: bool = False
    wandb: Literal["off", "offline", "online"] = "off"
    trackio: bool = False
    project: str = "grpojax"
    name: str | None = None  # null: the run's directory.


@dataclass(frozen=True)
class Health:
    """When a run warns, or stops; null switches a check off."""

    skipped_steps: int | None = 5  # In a row, with updates that are not finite: stop.
    entropy: float | None = 0.1  # Warn below this share of the initial value.
    length: float | None = 0.2
    log_prob_gap: float | None = 0.1  # Warn above, in nats.
    window: int = 5  # Steps that are averaged.

    def __post_init__(self):
        at_least(1, "health", skipped_steps=self.skipped_steps, window=self.window)
        at_least(0, "health", entropy=self.entropy, length=self.length)
        positive("health", log_prob_gap=self.log_prob_gap)
