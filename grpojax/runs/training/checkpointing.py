"""Checkpoints between steps, and ending a run early."""

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
    """Saves the state between steps, and ends a run that is to leave.

    A context manager: leaving it waits for the checkpoint that is being written.

    **Arguments:**

    - `settings`: how often, and how many are kept.
    - `directory`: the run's; `None` in a process that is not the first.
    - `checkpoints`: where checkpoints go, in all processes; `None` for none.
    - `last`: the number of the last step.
    - `log`: holds the metrics that belong to the state.
    - `preemption`: whether a signal asked the run to leave.
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

        The order matters: metrics are flushed before their state is saved, and the
        state is saved before the run leaves.

        **Arguments:**

        - `step`: the step that was taken.
        - `state`: after it. It must not be kept: the next step donates its memory.
        - `metrics`: of steps that may not have been reported yet.

        **Raises:** `PreemptedError` or `DivergedError` for a run that is to end; its
        last good state has been saved by then.
        """
        # All processes leave after the same step, whichever got the signal.
        every = self._every
        leave = processes.any_process(self._preemption.requested)
        due = leave or step == self._last
        if every is not None and (due or step % every == 0):
            metrics.flush()
            # A state whose last updates were skipped is no better than the one before.
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
