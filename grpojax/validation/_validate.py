"""The entry point of run-time validation."""

from typing import Literal, TypeVar

import jax
import jax.core
import numpy as np
from jaxtyping import Array, Int

from ..types import Rewards, Trajectory
from ._invariants import Invariants, TracedInvariants
from ._stages import (
    check_advantaged,
    check_rewarded,
    check_rollout,
    check_train_ready,
    check_train_step,
)


Stage = Literal["rollout", "rewarded", "advantaged", "train_step", "train_ready"]
_Value = TypeVar("_Value", bound=Trajectory | tuple)

_ARRAY = jax.Array | np.ndarray
_STAGES = {
    "rollout": ((Trajectory,), check_rollout),
    "rewarded": ((Trajectory, Rewards), check_rewarded),
    "advantaged": ((Trajectory, Rewards, _ARRAY), check_advantaged),
    "train_step": ((_ARRAY, _ARRAY, _ARRAY, dict), check_train_step),
    "train_ready": ((_ARRAY, _ARRAY, _ARRAY, dict), check_train_ready),
}


def validate(
    value: _Value, *, stage: Stage, step: int | Int[Array, ""] | None = None
) -> _Value:
    """Checks the run-time invariants of one stage's value, which types do not express.

    | stage | value |
    |---|---|
    | `"rollout"` | `trajectory` |
    | `"rewarded"` | `(trajectory, rewards)` |
    | `"advantaged"` | `(trajectory, rewards, advantages)` |
    | `"train_step"` | `(mask, weight, advantages, log_probs)`, what a loss reads |
    | `"train_ready"` | the same, with `"old"` among the log-probs |

    Each of the first three checks all that the one before it checks. In the last two,
    `mask`, `weight` and each of `log_probs` (by name: `old`, `behavior`, `reference`)
    are `[prompt group time]`; `advantages` may be `[prompt group 1]`.

    Concrete arrays are checked on the host. Inside a compiled program the check is
    attached to the value that is returned, which must be used in place of the argument.

    **Arguments:**

    - `value`: the value of the stage.
    - `stage`: which one.
    - `step`: the number of the training step, for the message; it may be traced.

    **Returns:** the value.

    **Raises:** `ValidationError`, a `ValueError`, with the step, the stage, the
    invariant, the value received and the remedy. From inside a compiled program it is a
    run-time error with all of these but the value.

    !!! example

        ```python
        trajectory = grpojax.validate(trajectory, stage="rollout", step=12)
        ```
    """
    if stage not in _STAGES:
        raise ValueError(
            f"validate(stage=...) must be one of {tuple(_STAGES)}. Received {stage!r}."
        )
    kinds, check = _STAGES[stage]
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) != len(kinds) or not all(map(isinstance, parts, kinds)):
        received = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(
            f"validate(stage={stage!r}) takes the value of its table. Received "
            f"({received}): see `help(grpojax.validate)`."
        )
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((parts, step))):
        invariants = TracedInvariants(stage, step)
        check(invariants, *parts)
        return invariants.attach_to(value)
    check(Invariants(stage, step), *parts)
    return value
