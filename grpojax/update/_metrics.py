"""Metrics of an update: accumulated over microbatches, then named."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from .. import masked
from ..types import Metrics
from .loss import LossInputs


Scalar = Float[Array, ""]

_RATIOS = {"ratio": "ratio", "importance": "sampling/importance_sampling_ratio"}


class MetricAccumulator(eqx.Module):
    """Metrics of one microbatch: sums, maxima and minima, each with its own reduction.

    `+` accumulates those of disjoint rows.
    """

    total: dict[str, Scalar]
    largest: dict[str, Scalar]
    smallest: dict[str, Scalar]

    @classmethod
    def from_microbatch(
        cls,
        loss: Scalar,
        measured: dict[str, Array],
        inputs: LossInputs,
        included: Bool[Array, "prompt group"],
        clips_rows: bool = False,
    ) -> "MetricAccumulator":
        """Reduces one microbatch's loss and per-token values.

        **Arguments:**

        - `loss`, `measured`: from the objective.
        - `inputs`: its inputs.
        - `included`: rows of this microbatch.
        - `clips_rows`: whether rows are clipped, and not tokens: the share is then that
            of rows, which weigh the same whatever their lengths, as in TRL.
        """
        mask = inputs.mask
        mean = lambda name: masked.mean(measured[name], mask, axis=-1)[:, :, 0]
        trained = included & jnp.any(mask, axis=-1)
        per_row = lambda name, rest: jnp.where(trained, mean(name), rest)
        behavior = inputs.batch.behavior
        gap = inputs.log_prob - (inputs.log_prob if behavior is None else behavior)
        per_token = {**measured, "gap": masked.fill(jnp.abs(gap), mask)}
        total = {name: jnp.sum(values) for name, values in per_token.items()}
        total |= {"loss": loss, "tokens": jnp.sum(mask, dtype=loss.dtype)}
        total["clippable"] = total["tokens"]
        if clips_rows:
            shares = {name: per_row(name, 0) for name in ("clip_low", "clip_high")}
            total |= {name: jnp.sum(share) for name, share in shares.items()}
            total["clippable"] = jnp.sum(included, dtype=loss.dtype)
        largest = {"gap": per_token["gap"], "clip_high": per_row("clip_high", -jnp.inf)}
        smallest = {"clip_low": per_row("clip_low", jnp.inf)}
        for name in _RATIOS:
            if name not in measured:
                continue
            largest[name] = jnp.where(mask, measured[name], -jnp.inf)
            smallest[name] = jnp.where(mask, measured[name], jnp.inf)
        largest = jax.tree.map(jnp.max, largest)
        smallest = jax.tree.map(jnp.min, smallest)
        return jax.lax.stop_gradient(cls(total, largest, smallest))

    def zeros(self) -> "MetricAccumulator":
        """The identity of `+`, shaped like `self`, of which only shapes are read."""
        full = lambda value: lambda x: jnp.full(x.shape, value, x.dtype)
        return MetricAccumulator(
            jax.tree.map(full(0), self.total),
            jax.tree.map(full(-jnp.inf), self.largest),
            jax.tree.map(full(jnp.inf), self.smallest),
        )

    def __add__(self, other: "MetricAccumulator") -> "MetricAccumulator":
        return MetricAccumulator(
            jax.tree.map(jnp.add, self.total, other.total),
            jax.tree.map(jnp.maximum, self.largest, other.largest),
            jax.tree.map(jnp.minimum, self.smallest, other.smallest),
        )

    def all_reduce(self) -> "MetricAccumulator":
        """Reduces accumulators that are stacked on a leading axis of replicas."""
        over = lambda function: lambda x: function(x, axis=0)
        return MetricAccumulator(
            jax.tree.map(over(jnp.sum), self.total),
            jax.tree.map(over(jnp.max), self.largest),
            jax.tree.map(over(jnp.min), self.smallest),
        )

    def metrics(self) -> Metrics:
        """Under TRL's names where the meaning is the same."""
        total, largest, smallest = self.total, self.largest, self.smallest
        nonempty = total["tokens"] > 0
        mean = lambda name: total[name] / jnp.maximum(total["tokens"], 1)
        shares = total["clip_low"], total["clip_high"]
        low, high = (x / jnp.maximum(total["clippable"], 1) for x in shares)
        metrics = {
            "loss": total["loss"],
            "entropy": mean("entropy"),
            "clip_ratio/low_mean": low,
            "clip_ratio/low_min": jnp.where(nonempty, smallest["clip_low"], 0),
            "clip_ratio/high_mean": high,
            "clip_ratio/high_max": jnp.where(nonempty, largest["clip_high"], 0),
            "clip_ratio/region_mean": low + high,
            "sampling/sampling_logp_difference/mean": mean("gap"),
            "sampling/sampling_logp_difference/max": largest["gap"],
        }
        if "kl" in total:
            metrics["kl"] = mean("kl")
        if "teacher" in total:
            metrics["teacher/kl"] = mean("teacher")
        if "balance" in total:
            metrics["router/balance_loss"] = mean("balance")
        for name, called in _RATIOS.items():
            if name not in total:
                continue
            metrics[f"{called}/mean"] = mean(name)
            metrics[f"{called}/max"] = jnp.where(nonempty, largest[name], 0)
            metrics[f"{called}/min"] = jnp.where(nonempty, smallest[name], 0)
        return metrics


def learning_rate(opt_state: PyTree) -> Metrics:
    """The learning rate, if the optimizer's state records exactly one.

    `optax.inject_hyperparams` does, and `update.with_learning_rate`.
    """
    is_number = lambda _, value: isinstance(value, jax.Array)  # Not a schedule's state.
    found = optax.tree.get_all_with_path(opt_state, "learning_rate", is_number)
    if len(found) != 1:
        return {}
    return {"learning_rate": found[0][1].astype(jnp.result_type(float))}


_FIRST = lambda values: values[0, 0]
_LAST = lambda values: values[-1, -1]
# Later updates have moved the policy: the gap to the sampler is the first update's.
_OVER_UPDATES = {
    "clip_ratio/low_min": jnp.min,
    "clip_ratio/high_max": jnp.max,
    "ratio/min": jnp.min,
    "ratio/max": jnp.max,
    "sampling/importance_sampling_ratio/min": jnp.min,
    "sampling/importance_sampling_ratio/max": jnp.max,
    "sampling/sampling_logp_difference/mean": _FIRST,
    "sampling/sampling_logp_difference/max": _FIRST,
    "learning_rate": _LAST,
    "skipped_updates": jnp.sum,
}


def over_updates(metrics: dict[str, Float[Array, "epoch minibatch"]]) -> Metrics:
    """Reduces the metrics of all updates of a step, by the mean unless named above."""
    return {
        name: _OVER_UPDATES.get(name, jnp.mean)(values)
        for name, values in metrics.items()
    }


_SMALL = 2**16


def stays_finite(new: PyTree, old: PyTree) -> Bool[Array, ""]:
    """Whether every float that was finite before an update is so after it.

    An optimizer's state may hold an infinite bound on purpose. All arrays in float16
    are checked, and otherwise the small ones, such as norms: with the range of float32
    what spoils an update, such as the learning rate, spoils all of them, and a check of
    every array would keep a copy of weights and moments until it is known.
    """
    pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    floats = [x for x in pairs if jnp.issubdtype(x[0].dtype, jnp.inexact)]
    most = max(_SMALL, min((x.size for x, _ in floats), default=0))
    checked = [x for x in floats if x[0].dtype == jnp.float16 or x[0].size <= most]
    finite = [jnp.all(jnp.isfinite(x) | ~jnp.isfinite(y)) for x, y in checked]
    return jnp.all(jnp.stack(finite)) if finite else jnp.ones((), bool)


def choose(finite: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """The new values if the update is finite, else the old ones."""
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
