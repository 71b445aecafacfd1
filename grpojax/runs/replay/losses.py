"""What several losses make of the same samples."""

import dataclasses
from collections.abc import Mapping
from typing import Any, SupportsFloat

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from ..._train import Experience, TrainStep
from ...types import TrainState
from ...update import improve


_SHOWN = (
    *("loss", "grad_norm", "clip_ratio/low_mean", "clip_ratio/high_mean", "entropy"),
    *("kl", "skipped_updates"),
)


@dataclasses.dataclass(frozen=True)
class LossComparison:
    """What another loss makes of the same samples, or the run's own.

    **Fields:**

    - `metrics`: of its update, as in `metrics.jsonl`.
    - `gradient_cosine`: of the gradient of the whole batch at the policy before the
        step, with that of the run's own loss.
    - `update_cosine`: of the change of the policy after all updates of the step, with
        the run's own.
    - `update_norm`: the norm of that change, relative to the run's own.
    """

    metrics: dict[str, float]
    gradient_cosine: float
    update_cosine: float
    update_norm: float

    def to_json(self) -> dict[str, object]:
        """The fields for a JSON file, with the metrics that compare losses."""
        kept = {x: self.metrics[x] for x in _SHOWN if x in self.metrics}
        return {**dataclasses.asdict(self), "metrics": kept}


Arguments = tuple[tuple, dict[str, Any]]
"""The positional and the keyword arguments of `improve`."""


def update_arguments(
    step: TrainStep, state: TrainState, experience: Experience
) -> Arguments:
    """The update of a step."""
    made = experience.trajectory, experience.advantages, experience.keep
    return (state.policy, state.opt_state, *made), dict(
        objective=step.algorithm.objective,
        optimizer=step.optimizer,
        reference=state.reference,
        config=step.update,
    )


def compare_losses(
    arguments: Arguments,
    improved: tuple[PyTree, Mapping[str, Any]],
    others: Mapping[str, Arguments],
) -> dict[str, LossComparison]:
    """The run's own loss, named `"run"`, and others on the same samples.

    **Arguments:**

    - `arguments`: of the run's update.
    - `improved`: the policy after it, and its metrics.
    - `others`: arguments of other updates by name, of the same policy.
    """
    trained = lambda policy: _flat(eqx.filter(policy, policy.trainable()))
    policy, metrics = improved
    before = trained(arguments[0][0])
    own = trained(policy) - before
    found = {"run": LossComparison(floats(metrics), 1.0, 1.0, 1.0)}
    gradient = _flat(_gradient(*arguments)) if others else np.zeros(0)
    for name, other in others.items():
        after, _, metrics = _improved(*other)
        moved = trained(after) - before
        found[name] = LossComparison(
            metrics=floats(metrics),
            gradient_cosine=_cosine(_flat(_gradient(*other)), gradient),
            update_cosine=_cosine(moved, own),
            update_norm=_ratio(np.linalg.norm(moved), np.linalg.norm(own)),
        )
    return found


def _flat(tree: PyTree) -> np.ndarray:
    """All numbers of a tree, in float64: differences of weights lose no digits."""
    leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    return _ratio(x @ y, np.linalg.norm(x) * np.linalg.norm(y))


def _ratio(x: SupportsFloat, y: SupportsFloat) -> float:
    return float(x) / float(y) if float(y) > 0 else 0.0


@eqx.filter_jit
def _improved(arguments: tuple, settings: dict[str, Any]):
    return improve(*arguments, **settings)


def _record(updates: PyTree, state: PyTree, params: PyTree = None):
    del state, params
    return jax.tree.map(jnp.zeros_like, updates), updates


_RECORDER = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params), _record
)


@eqx.filter_jit
def _gradient(arguments: tuple, settings: dict[str, Any]) -> PyTree:
    """The gradient of a loss over the whole batch."""
    policy, _, *made = arguments
    config = dataclasses.replace(settings["config"], epochs=1, minibatches=1)
    state = _RECORDER.init(eqx.filter(policy, policy.trainable()))
    settings = settings | {"optimizer": _RECORDER, "config": config}
    return improve(policy, state, *made, **settings)[1]


def floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics on the host."""
    return {name: float(x) for name, x in jax.device_get(dict(metrics)).items()}
