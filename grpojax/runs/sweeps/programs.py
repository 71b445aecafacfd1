"""Arguments of `fit` for runs that share compiled programs."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.tree_util import Partial

from ..._train import TrainStep
from ..evaluation.evaluator import Evaluator
from ..training.settings import Prepared
from ..training.step import LoweredStep


class Programs(NamedTuple):
    """The step and the evaluations of a run, traced, and compiled if it has run."""

    step: LoweredStep
    evaluators: Mapping[str, Evaluator]

    @classmethod
    def of(cls, run: Prepared) -> "Programs | None":
        """Those of a run; `None` if they cannot be shared, as of one with actors."""
        if run.step.actors is not None or not isinstance(run.step.step, TrainStep):
            return None
        return cls(run.step, run.evaluators)


def with_rate_as_input(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments whose learning rate is an input of the program, not a constant in it.

    **Arguments:**

    - `arguments`: those of `fit`, from a recipe whose learning rate is a number.
    """
    step: TrainStep = arguments["step"]
    return {**arguments, "step": _with_rate(step, step.optimizer.update)}


def with_programs(programs: Programs, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with the traced and compiled programs of another run.

    **Arguments:**

    - `programs`: of a recipe that differs in nothing but the seed and, if it is an
        input, the learning rate.
    - `arguments`: those of `fit`.
    """
    lowered, step = programs.step, programs.step.step
    assert isinstance(step, TrainStep)
    if _has_rate_as_input(step):
        step = _with_rate(step, arguments["step"].optimizer.update)
    evaluators = {
        name: programs.evaluators[name].with_key(evaluation.key)
        for name, evaluation in arguments["evaluation"].items()
    }
    return {**arguments, "step": lowered.of(step), "evaluation": evaluators}


def _has_rate_as_input(step: TrainStep) -> bool:
    update: Any = step.optimizer.update
    return isinstance(update, Partial) and eqx.is_array(update.args[0])


def _with_rate(step: TrainStep, update: Any) -> TrainStep:
    """A step with the learning rate of another one's optimizer, as an array."""
    own: Any = step.optimizer.update
    rate = jnp.asarray(update.args[0], jnp.float32)
    optimizer = step.optimizer._replace(update=Partial(own.func, rate))
    return dataclasses.replace(step, optimizer=optimizer)
