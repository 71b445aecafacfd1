"""Whether a replayed step is the one that a run has recorded."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from ...text import AbstractTokenizer
from ...types import TrainState
from ..checkpoint import files as store
from ..checkpoint.arrays import ArrayLike, arrays_of, donation_safe_copy
from ..checkpoint.checkpoints import Checkpoints
from ..io import jsonl
from ..io.run_directory import CHECKPOINTS, COMPLETIONS, METRICS
from ..io.samples import Samples, to_records


_CLOCKS = ("time", "step_time")
Metrics = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What of a replay equals the records of its run, to the last bit.

    **Fields:**

    - `metrics`: for each step that was taken again, the names of the metrics that
        differ from those in `metrics.jsonl`; all of them if it has no such step. The
        clock is left out.
    - `completions`: whether tokens, rewards and advantages equal those that
        `completions.jsonl` holds of the step; `None` if it holds none.
    - `state`: the arrays that differ from those of the checkpoint after the step;
        `None` if there is no intact one.
    - `details`: the metrics of the update that was taken apart, in a program of its
        own, that differ from those of the step.
    """

    metrics: dict[int, tuple[str, ...]]
    completions: bool | None
    state: tuple[str, ...] | None
    details: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether all that was recorded of the step is equal."""
        differs = any(self.metrics.values()) or self.completions is False
        return not (differs or self.state)

    def to_json(self) -> dict[str, object]:
        """The fields for a JSON file, with `exact`."""
        metrics = {str(step): names for step, names in self.metrics.items()}
        return {**dataclasses.asdict(self), "metrics": metrics, "exact": self.exact}


def differing_metrics(
    run: Path, steps: Mapping[int, Metrics]
) -> dict[int, tuple[str, ...]]:
    """The names of the metrics of some steps that differ from those recorded."""
    recorded = {x["step"]: x for x in _records(run / METRICS)}
    found = {}
    for step, metrics in steps.items():
        (values,) = jsonl.parse(jsonl.encode({"step": step, **metrics}))
        found[step] = differing(values, recorded.get(step, {}))
    return found


def differing(
    values: Mapping[str, object], others: Mapping[str, object]
) -> tuple[str, ...]:
    """The names of the values that are not the same in both, without the clock."""
    names = [x for x in {**values, **others} if x not in _CLOCKS]
    # By their digits: a NaN is the same as another.
    return tuple(x for x in names if repr(values.get(x)) != repr(others.get(x)))


def same_completions(
    run: Path, step: int, samples: Samples | None, tokenizer: AbstractTokenizer | None
) -> bool | None:
    """Whether the logged completions of a step are these; `None` if there are none."""
    recorded = [x for x in _records(run / COMPLETIONS) if x["step"] == step]
    if not recorded or samples is None or tokenizer is None:
        return None
    found = jsonl.parse(jsonl.encode(*to_records(step, samples, tokenizer)))
    return found == recorded


def differing_arrays(run: Path, step: int, state: TrainState) -> tuple[str, ...] | None:
    """The arrays of a state that differ from the checkpoint after a step, if any."""
    directory = run / CHECKPOINTS
    if store.last_intact(directory, step)[0] != step:
        return None
    with Checkpoints(directory) as saved:
        restored = saved.restore(state, max_step=step).state
    ours, theirs = arrays_of(state), arrays_of(restored)
    return tuple(
        name for name, array in ours.items() if _bits(array) != _bits(theirs[name])
    )


def last_step(run: Path) -> int:
    """The last step that a run has recorded; 0 for none."""
    return max((x["step"] for x in _records(run / METRICS)), default=0)


def _bits(array: ArrayLike) -> bytes:
    return np.asarray(jax.device_get(donation_safe_copy(array))).tobytes()


def _records(path: Path) -> Sequence[dict]:
    return jsonl.parse(path.read_bytes()) if path.exists() else []
