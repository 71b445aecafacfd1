"""A live bar on a terminal, a line now and then elsewhere."""

import math
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bar,
    TextColumn,
    TimeRemainingColumn,
)


_EVERY = 5  # Steps between two lines, where there is no terminal.


class Progress:
    """Progress display of a training run, as a context manager."""

    def __init__(self, steps: int, console: Console):
        self._steps, self._console = steps, console
        self._bar = Bar(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float | int]) -> None:
        """Shows one step's metrics."""
        # A step of the user's need not have these metrics.
        name = "loss" if "reward" not in metrics and "loss" in metrics else "reward"
        line = f"{name} {metrics.get(name, math.nan):.3f}"
        if "rewards/correct/mean" in metrics:
            line += f"  accuracy {metrics['rewards/correct/mean']:.1%}"
        if "completions/mean_length" in metrics:
            line += f"  length {metrics['completions/mean_length']:.1f}"
        if "num_tokens" in metrics:
            line += f"  {metrics['num_tokens'] / metrics['step_time']:,.0f} tokens/s"
        self._bar.update(self._task, completed=step, description=line)
        last = step == self._steps
        if not self._console.is_terminal and (last or (step - 1) % _EVERY == 0):
            remaining = (self._steps - step) * metrics["step_time"]
            self._console.print(
                f"step {step}/{self._steps}  {line}  {remaining:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )
