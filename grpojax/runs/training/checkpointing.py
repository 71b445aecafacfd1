"""Checkpoint callback: periodic saves, preemption and divergence."""

from pathlib import Path

from ...types import TrainState
from ..checkpoint.checkpoints import Checkpoints
from ..distributed import processes
from ..distributed.preemption import Preemption
from ..io.run_directory import RunDirectory
from .metrics_buffer import MetricsBuffer
from .run_log import RunLog
from .settings import Checkpointing


class CheckpointCallback:
    """Saves checkpoints between steps, and stops preempted and diverged runs.

    A context manager: on exit it waits for a save that is still in progress.

    **Arguments:**

    - `settings`: save frequency and retention.
    - `directory`: the run directory; `None` on processes other than 0.
    - `checkpoints`: the checkpoint directory, on all processes; `None` for no saves.
    - `last`: the number of the last step.
    - `log`: the run log, for the checkpoint's config, score and health status.
    - `preemption`: tells whether a termination signal was received.
    """

    def __init__(
        self,
        settings: Checkpointing,
        directory: RunDirectory | None,
        checkpoints: Path | None,
        last: int,
        log: RunLog,
        preemption: Preemption,
    ):
        self._every, self._last = settings.every, last
        self._directory, self._log, self._preemption = directory, log, preemption
        self._checkpoints: Checkpoints | None = None
        if checkpoints is not None and settings.every is not None:
            self._checkpoints = Checkpoints(
                checkpoints,
                keep_last=settings.keep_last,
                keep_best=settings.keep_best,
            )

    def __enter__(self) -> "CheckpointCallback":
        return self

    def __exit__(self, *_: object) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()

    def on_step_end(self, step: int, state: TrainState, metrics: MetricsBuffer) -> None:
        """Saves the state if a checkpoint is due.

        Metrics are flushed before their state is saved, and the state is saved before
        the run exits.

        **Arguments:**

        - `step`: the step that was taken.
        - `state`: the state after that step; do not keep it, the next step donates it.
        - `metrics`: the buffer of metrics that may not have been flushed yet.

        **Raises:** `PreemptedError` on preemption, `DivergedError` on divergence; both
        after the last finite state was saved, if checkpoints are enabled.
        """
        # All processes exit after the same step, whichever received the signal.
        every = None if self._checkpoints is None else self._every
        leave = processes.any_process(self._preemption.requested)
        due = leave or step == self._last
        if every is not None and (due or step % every == 0):
            metrics.flush()
            # Not after a step with a non-finite loss or skipped updates.
            if self._log.last_update_finite:
                self._save(step, state)
        if leave:
            metrics.flush()
            self._preemption.raise_preempted()
        self._log.raise_if_diverged()

    def _save(self, step: int, state: TrainState) -> None:
        if self._checkpoints is None:
            return
        files = {} if self._directory is None else self._directory.snapshot()
        self._checkpoints.save(
            step,
            state,
            config=self._log.config,
            files=files,
            score=self._log.records[-1].get("reward"),
        )
        self._log.event("checkpoint", f"the state after step {step} is being saved")
