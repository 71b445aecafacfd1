"""Run-time invariants of the values that fly, on request."""

from typing import Literal, TypeVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .types import Rewards, Trajectory
from .update import Batch, LossWeights


Stage = Literal["rollout", "rewarded", "advantaged", "train_step", "train_ready"]
_Value = TypeVar("_Value", bound=Trajectory | tuple)
_TOKENS, _ROWS = "prompt group time", "prompt group"


class ValidationError(ValueError):
    """An invariant does not hold."""


def validate(value: _Value, *, stage: Stage, step: int | None = None) -> _Value:
    """Checks what types do not say: run-time invariants of one stage's value.

    | stage | value |
    |---|---|
    | `"rollout"` | `trajectory` |
    | `"rewarded"` | `(trajectory, rewards)` |
    | `"advantaged"` | `(trajectory, rewards, advantages)` |
    | `"train_step"` | `(update.Batch, update.LossWeights)` |
    | `"train_ready"` | the same, with old log-probabilities |

    Concrete arrays are checked on the host. Inside a compiled program the checks ride
    on the value that comes back, which must be used in place of the one that went in.

    **Arguments:**

    - `value`: what the stage hands on.
    - `stage`: which one.
    - `step`: a number for the message.

    **Returns:** the value.

    **Raises:** `ValidationError`, a `ValueError`, that says the step, the stage, the
    invariant, the value received and the remedy. From inside a compiled program it is
    a run-time error that says all but the value.

    !!! example

        ```python
        trajectory = grpojax.validate(trajectory, stage="rollout", step=12)
        ```
    """
    if stage not in _STAGES:
        raise ValueError(
            f"validate(stage=...) must be one of {tuple(_STAGES)}. Received {stage!r}."
        )
    kinds, visit = _STAGES[stage]
    parts = value if isinstance(value, tuple) else (value,)
    if len(parts) != len(kinds) or not all(map(isinstance, parts, kinds)):
        received = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(
            f"validate(stage={stage!r}) checks the value that its table names. "
            f"Received ({received})."
        )
    where = f"stage {stage!r}" if step is None else f"step {step}, stage {stage!r}"
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(parts)):
        laws = _TracedLaws(where)
        visit(laws, *parts)
        return laws.ride_on(value)
    visit(_Laws(where), *parts)
    return value


class _Laws:
    """Requires one law after another of concrete arrays."""

    def __init__(self, where: str):
        self.where = where
        self.sizes: dict[str, int] = {}

    def fail(self, law: str, received: str, remedy: str):
        raise ValidationError(f"{self.where}: {law}. Received {received}. {remedy}")

    def shape(self, words: str, **arrays: Array):
        """Every array has this shape, and a word never changes its meaning."""
        names = words.split()
        for name, array in arrays.items():
            sizes = dict(zip(names, array.shape, strict=False))
            known = {**sizes, **self.sizes}
            if array.ndim != len(names) or any(known[w] != sizes[w] for w in names):
                bound = {w: self.sizes[w] for w in names if w in self.sizes}
                law = f"`{name}` has the shape [{words}], with {bound}"
                self.fail(
                    law, str(array.shape), "`grpojax.types` says what goes where."
                )
            self.sizes = known

    def require(self, law: str, holds: Array, values: Array, remedy: str):
        """The law holds everywhere; `values` are what it speaks of."""
        broken = ~np.asarray(holds)
        if broken.any():
            index = tuple(int(i) for i in np.argwhere(broken)[0])
            value = np.broadcast_to(np.asarray(values), broken.shape)[index]
            count = f"{int(broken.sum())} of {broken.size} break it"
            self.fail(law, f"{value} at index {index}; {count}", remedy)


class _TracedLaws(_Laws):
    """Collects laws, since traced arrays cannot say yet whether they hold."""

    def __init__(self, where: str):
        super().__init__(where)
        self.broken, self.messages = [], []

    def require(self, law: str, holds: Array, values: Array, remedy: str):
        del values  # Not known while tracing.
        self.broken.append(~jnp.all(holds))
        self.messages.append(f"{self.where}: {law}. {remedy}")

    def ride_on(self, value: _Value) -> _Value:
        broken = jnp.stack(self.broken)
        first = jnp.argmax(broken)
        return eqx.branched_error_if(value, jnp.any(broken), first, self.messages)


def _rollout(laws: _Laws, trajectory: Trajectory):
    prompt, sampled = trajectory.prompt, trajectory.sampled
    log_prob, version = trajectory.log_prob, trajectory.version
    laws.shape("prompt prefix", **{"prompt.tokens": prompt.tokens})
    laws.shape("prompt", **{"prompt.length": prompt.length})
    laws.shape(_TOKENS, tokens=trajectory.tokens, sampled=sampled)
    laws.shape(_TOKENS, log_prob=log_prob, version=version)
    laws.shape(_ROWS, terminated=trajectory.terminated, **trajectory.rewards)
    laws.require(
        "a prompt's length is at least 1 and at most its width",
        (prompt.length >= 1) & (prompt.length <= prompt.tokens.shape[1]),
        prompt.length,
        "An empty prompt needs a beginning-of-sequence token.",
    )
    laws.require(
        "token ids are at least 0",
        trajectory.tokens >= 0,
        trajectory.tokens,
        "Padding is 0, and not `sampled`.",
    )
    laws.require(
        "a row's first position is sampled, unless none is",
        sampled[:, :, 0] | ~jnp.any(sampled, axis=-1),
        jnp.argmax(sampled, axis=-1),
        "Completions are padded on the right, and the policy speaks first.",
    )
    _log_prob(laws, "log_prob", log_prob, sampled)
    laws.require(
        "`log_prob` is 0 where nothing was sampled",
        sampled | (log_prob == 0),
        log_prob,
        "Padding and an environment's replies have none.",
    )
    laws.require(
        "`version` is at least 0 where a token was sampled, and -1 elsewhere",
        jnp.where(sampled, version >= 0, version == -1),
        version,
        "It numbers the policy that sampled the token.",
    )
    laws.require(
        "a row that terminated has sampled a token",
        (trajectory.lengths > 0) | ~trajectory.terminated,
        trajectory.lengths,
        "The token that ends a turn is `sampled`.",
    )
    for name, paid in trajectory.rewards.items():
        remedy = "An environment pays every row."
        laws.require(f"reward {name!r} is finite", jnp.isfinite(paid), paid, remedy)


def _log_prob(laws: _Laws, name: str, values: Array, mask: Array):
    laws.require(
        f"`{name}` is finite and at most 0 where a token was sampled",
        ~mask | (jnp.isfinite(values) & (values <= 0)),
        values,
        "It is the natural logarithm of a softmax at the sampler's temperature.",
    )


def _rewarded(laws: _Laws, trajectory: Trajectory, rewards: Rewards):
    _rollout(laws, trajectory)
    laws.shape(_ROWS, total=rewards.total, valid=rewards.valid, keep=rewards.keep)
    laws.shape(_ROWS, lengths=rewards.lengths, **rewards.components)
    laws.require(
        "the total is finite where it is valid",
        ~rewards.valid | jnp.isfinite(rewards.total),
        rewards.total,
        "A row to which no reward applies is not `valid`.",
    )
    for name, paid in rewards.components.items():
        law, remedy = f"component {name!r} is finite", "NaN: does not apply to the row."
        laws.require(law, ~jnp.isinf(paid), paid, remedy)
    laws.require(
        "`lengths` counts the tokens that a row sampled",
        rewards.lengths == trajectory.lengths,
        rewards.lengths,
        "Take `trajectory.lengths`.",
    )


def _advantaged(
    laws: _Laws, trajectory: Trajectory, rewards: Rewards, advantages: Array
):
    _rewarded(laws, trajectory, rewards)
    laws.shape(_ROWS if advantages.ndim < 3 else _TOKENS, advantages=advantages)
    laws.require(
        "advantages are finite",
        jnp.isfinite(advantages),
        advantages,
        "A group's spread may be 0: give the estimator an `eps`.",
    )
    rows = rewards.valid.reshape(*rewards.valid.shape, *(1,) * (advantages.ndim - 2))
    laws.require(
        "a row whose reward is not valid has the advantage 0",
        rows | (advantages == 0),
        advantages,
        "It stands outside every statistic.",
    )


def _train_step(laws: _Laws, batch: Batch, weights: LossWeights):
    mask, weight = batch.mask, weights.token
    laws.require(
        "a weight is finite and at least 0, and 0 outside the mask",
        jnp.where(mask, jnp.isfinite(weight) & (weight >= 0), weight == 0),
        weight,
        "Only tokens that the policy sampled are trained on.",
    )
    laws.require(
        "an advantage is finite where there are tokens to train on",
        ~mask | jnp.isfinite(batch.advantage),
        batch.advantage,
        "Validate the stage 'advantaged'.",
    )
    for name, values in (
        ("old", batch.old),
        ("behavior", batch.behavior),
        ("reference", batch.reference),
    ):
        if values is not None:
            _log_prob(laws, name, values, mask)


def _train_ready(laws: _Laws, batch: Batch, weights: LossWeights):
    if batch.old is None:
        remedy = "Score the batch before the first update, or take the sampler's."
        laws.fail("old log-probabilities are there", "None", remedy)
    _train_step(laws, batch, weights)


_STAGES = {
    "rollout": ((Trajectory,), _rollout),
    "rewarded": ((Trajectory, Rewards), _rewarded),
    "advantaged": ((Trajectory, Rewards, jax.Array | np.ndarray), _advantaged),
    "train_step": ((Batch, LossWeights), _train_step),
    "train_ready": ((Batch, LossWeights), _train_ready),
}


def validate_update(batch: Batch, weights: LossWeights) -> Batch:
    """Checks a minibatch before its gradient: the two stages of the update.

    **Returns:** the batch, which must be used in place of the one that went in.
    """
    stage = "train_step" if batch.old is None else "train_ready"
    return validate((batch, weights), stage=stage)[0]
