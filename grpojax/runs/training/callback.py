"""Between two steps: whether to keep the state, and whether to go on."""

from pathlib import Path

from ...types import TrainState
from ..checkpoint.checkpoints import Checkpoints
from ..distributed import processes
from ..distributed.preemption import Preemption
from ..io.run_directory import RunDirectory
from ..recipe import load as recipes
from ..recipe.schema import Recipe
from .run_log import Journal
from .step import Readings


class Keeper:
    """Saves states as a recipe says; without a directory it saves none.

    A context manager: leaving it waits for what is being saved.

    **Arguments:**

    - `directory`: the run's; `None` of a process that is not the first.
    - `place`: where `Checkpoints` go, of all processes.
    - `recipe`: how often, and how many are kept.
    - `journal`: has the metrics; its records belong to the state.
    - `preemption`: whether the run shall leave.
    """

    def __init__(
        self,
        directory: RunDirectory | None,
        place: Path | None,
        recipe: Recipe,
        journal: Journal,
        preemption: Preemption,
    ):
        self._recipe, self._journal = recipe, journal
        self._directory, self._preemption = directory, preemption
        self._checkpoints: Checkpoints | None = None
        settings = recipe.checkpoint
        if place is not None and settings.every is not None:
            self._checkpoints = Checkpoints(
                place,
                keep_last=settings.keep_last,
                keep_best=settings.keep_best,
            )

    def __enter__(self) -> "Keeper":
        return self

    def __exit__(self, *_: object) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()

    def visit(self, step: int, state: TrainState, readings: Readings) -> bool:
        """After a step: keeps its state if it is time to. For `loop.fit`.

        **Raises:** `PreemptedError` or `DivergedError` for a run that shall not go on;
        a state that is worth it has been saved by then.
        """
        # All processes leave after the same step, whichever was told to.
        every = self._recipe.checkpoint.every
        leaves = processes.any_process(self._preemption.requested)
        last = step == self._recipe.run.steps
        if every is not None and (leaves or last or step % every == 0):
            readings.read()
            # A state whose last updates were skipped is no better than the one before.
            if self._journal.in_order:
                self._save(step, state)
        if leaves:
            readings.read()
            self._preemption.raise_preempted()
        self._journal.check()
        return True

    def _save(self, step: int, state: TrainState) -> None:
        if self._checkpoints is None:
            return
        snapshot = {} if self._directory is None else self._directory.snapshot()
        self._checkpoints.save(
            step,
            state,
            config=recipes.dump(self._recipe),
            files=snapshot,
            score=self._journal.records[-1].get("reward"),
        )
        self._journal.event("checkpoint", f"the state after step {step} is being saved")
