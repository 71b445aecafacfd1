"""A step of a recorded run, taken again bit for bit, and taken apart."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..._train import Experience, RolloutSource, TrainStep
from ...text import AbstractTokenizer
from ...types import TrainState
from ...update import inspect, Inspection
from ..checkpoint import files as store
from ..checkpoint.checkpoints import Checkpoints
from ..checkpoint.resume_check import check_digests
from ..distributed.mesh import mesh_of, use
from ..io.run_directory import CHECKPOINTS, CONFIG
from ..training.fit import digests_of
from ..training.settings import Logging
from ..training.step import lower, validation_errors
from .agreement import (
    Agreement,
    differing,
    differing_arrays,
    differing_metrics,
    last_step,
    same_completions,
)
from .losses import (
    compare_losses,
    floats,
    LossComparison,
    update_arguments,
)


@dataclasses.dataclass(frozen=True)
class Replay:
    """A step that was taken again.

    **Fields:**

    - `step`: its number, from 1.
    - `start`: the step of the checkpoint that it was reached from; 0 for the state
        that the run started with.
    - `metrics`: of the step.
    - `agreement`: whether it is the step that the run has recorded.
    - `experience`: all rows, with rewards and advantages.
    - `inspection`: what each row and each token has contributed; see `update.inspect`.
    - `losses`: the run's own loss, named `"run"`, and the alternatives.
    - `tokenizer`: decodes the rows, if there is one.
    """

    step: int
    start: int
    metrics: dict[str, float]
    agreement: Agreement
    experience: Experience
    inspection: Inspection
    losses: dict[str, LossComparison]
    tokenizer: AbstractTokenizer | None = None


def replay_step(
    state: TrainState,
    step: TrainStep,
    number: int,
    *,
    run: str | os.PathLike[str],
    logging: Logging = Logging(),
    alternatives: Mapping[str, TrainStep] | None = None,
) -> Replay:
    """Takes a step of a run again, with the run's own program, and takes it apart.

    The state before the step comes from the last checkpoint before it, and the steps
    between are taken again. Nothing is written to the run.

    **Arguments:**

    - `state`, `step`, `logging`: as they were passed to `grpojax.fit`.
    - `number`: of the step, from 1.
    - `run`: the run's directory.
    - `alternatives`: train steps by name that differ in `algorithm` or `update`: what
        their losses make of the same samples.

    **Returns:** the step; `agreement` says whether it is what the run has recorded.

    **Raises:** `ValueError` for a step that the run has not taken, and for another
    model or other data than the run's; `FileNotFoundError` if there is no run.

    !!! example

        ```python
        found = replay_step(state, step, 17, run="out/run")
        assert found.agreement.exact
        ```
    """
    run = Path(run)
    check_taken(run, number)
    mesh = mesh_of(state)
    # What actors sample on devices of their own is the same.
    step = dataclasses.replace(step, actors=None)
    with use(mesh), validation_errors():
        start, before = _restored(run, state, step, number)
        samples = logging.samples if logging.tokenizer is not None else 0
        call = lower(before, step, samples=samples).compile().call
        metrics = {}
        for taken in range(start + 1, number):
            before, values, _ = call(before)
            metrics[taken] = floats(values)
        after, values, logged = call(_copied(before))
        metrics[number] = floats(values)
        state_differs = differing_arrays(run, number, after)
        rollout = _rollout(step, before)
        experience = _collect(step, before, rollout)
        others = {
            name: update_arguments(other, before, _collect(other, before, rollout))
            for name, other in (alternatives or {}).items()
        }
    here = _on_one_device if mesh is not None else lambda tree: tree
    arguments = here(update_arguments(step, before, experience))
    policy, _, found, inspection = _inspected(*arguments)
    agreement = Agreement(
        metrics=differing_metrics(run, metrics),
        completions=same_completions(
            run, number, jax.device_get(logged), logging.tokenizer
        ),
        state=state_differs,
        details=_differing_details(found, metrics[number]),
    )
    return Replay(
        step=number,
        start=start,
        metrics=metrics[number],
        agreement=agreement,
        experience=experience,
        inspection=jax.device_get(inspection),
        losses=compare_losses(arguments, (policy, found), here(others)),
        tokenizer=logging.tokenizer,
    )


def check_taken(run: Path, number: int) -> None:
    """Raises an error unless a run has taken a step."""
    if not (run / CONFIG).is_file():
        raise FileNotFoundError(
            f"replay: a step is one of a run. There is none at {str(run)!r}: check the "
            "path."
        )
    if not 1 <= number <= (last := last_step(run)):
        raise ValueError(
            f"replay: a step is one that the run has taken. {str(run)!r} has recorded "
            f"{last} steps. Received step {number}: ask for another one."
        )


def _restored(
    run: Path, state: TrainState, step: TrainStep, number: int
) -> tuple[int, TrainState]:
    """The last state before a step that is known, and its number."""
    directory = run / CHECKPOINTS
    if store.last_intact(directory, number - 1)[0] is None:
        return 0, _copied(state)
    with Checkpoints(directory) as saved:
        restored = saved.restore(state, max_step=number - 1)
    found = restored.metadata.get("digests")
    if isinstance(found, Mapping):
        # Columns are those of evaluations, too, which are not made again.
        started = {x: y for x, y in found.items() if x in ("model", "data")}
        check_digests(started, digests_of(state, step, {}))
    return restored.step, restored.state


def _copied(tree: PyTree) -> PyTree:
    """A tree whose arrays may be donated."""
    return jax.tree.map(lambda x: jnp.copy(x) if eqx.is_array(x) else x, tree)


def _on_one_device(tree: PyTree) -> PyTree:
    """A tree whose arrays are on the first device alone."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.device_put(arrays, jax.devices()[0]), rest)


def _rollout(step: TrainStep, state: TrainState) -> PyTree:
    """The rollout of a step, and the rows that go on in the next one."""
    sample = lambda step, state: step.sample(RolloutSource.of(state, step.draws))
    if step.env.backend is None:  # Else Python answers its turns.
        sample = eqx.filter_jit(sample)
    return sample(step, state)


@eqx.filter_jit
def _collect(step: TrainStep, state: TrainState, rollout: PyTree) -> Experience:
    return step.collect(state, *rollout)


@eqx.filter_jit
def _inspected(arguments: tuple, settings: dict[str, Any]):
    return inspect(*arguments, **settings)


def _differing_details(found: Mapping[str, Any], metrics: Mapping[str, float]):
    return differing(floats(found), {x: metrics[x] for x in found if x in metrics})
