"""What an update measures: added up over microbatches, then named."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from .. import masked
from ..types import Metrics
from ._scores import Scores


Number = Float[Array, ""]

_RATIOS = {"ratio": "ratio", "importance": "sampling/importance_sampling_ratio"}


class Tally(eqx.Module):
    """What a part of a batch measured, by how the numbers of parts are put together."""

    total: dict[str, Number]
    largest: dict[str, Number]
    smallest: dict[str, Number]

    @classmethod
    def of(
        cls,
        loss: Number,
        measured: dict[str, Array],
        scores: Scores,
        here: Bool[Array, "prompt group"],
    ) -> "Tally":
        """Of one part's loss and per-token values; `here` says which rows it has."""
        mask = scores.mask
        mean = lambda name: masked.mean(measured[name], mask, axis=-1)[:, :, 0]
        per_row = lambda name, rest: jnp.where(here, mean(name), rest)
        behavior = scores.frozen.behavior
        gap = scores.log_prob - (scores.log_prob if behavior is None else behavior)
        per_token = {**measured, "gap": masked.fill(jnp.abs(gap), mask)}
        total = {name: jnp.sum(values) for name, values in per_token.items()}
        total |= {"loss": loss, "tokens": jnp.sum(mask, dtype=loss.dtype)}
        largest = {"gap": per_token["gap"], "clip_high": per_row("clip_high", -jnp.inf)}
        smallest = {"clip_low": per_row("clip_low", jnp.inf)}
        for name in _RATIOS:
            if name not in measured:
                continue
            largest[name] = jnp.where(mask, measured[name], -jnp.inf)
            smallest[name] = jnp.where(mask, measured[name], jnp.inf)
        tally = cls(
            total, jax.tree.map(jnp.max, largest), jax.tree.map(jnp.min, smallest)
        )
        return jax.lax.stop_gradient(tally)

    def empty(self) -> "Tally":
        """Of no part; reads shapes only."""
        full = lambda value: lambda x: jnp.full(x.shape, value, x.dtype)
        return Tally(
            jax.tree.map(full(0), self.total),
            jax.tree.map(full(-jnp.inf), self.largest),
            jax.tree.map(full(jnp.inf), self.smallest),
        )

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            jax.tree.map(jnp.add, self.total, other.total),
            jax.tree.map(jnp.maximum, self.largest, other.largest),
            jax.tree.map(jnp.minimum, self.smallest, other.smallest),
        )

    def over_replicas(self) -> "Tally":
        """Those of parts that stand on a leading axis, put together."""
        over = lambda function: lambda x: function(x, axis=0)
        return Tally(
            jax.tree.map(over(jnp.sum), self.total),
            jax.tree.map(over(jnp.max), self.largest),
            jax.tree.map(over(jnp.min), self.smallest),
        )

    def metrics(self) -> Metrics:
        """Under TRL's names where the meaning is the same."""
        total, largest, smallest = self.total, self.largest, self.smallest
        some = total["tokens"] > 0
        mean = lambda name: total[name] / jnp.maximum(total["tokens"], 1)
        low, high = mean("clip_low"), mean("clip_high")
        metrics = {
            "loss": total["loss"],
            "entropy": mean("entropy"),
            "clip_ratio/low_mean": low,
            "clip_ratio/low_min": smallest["clip_low"],
            "clip_ratio/high_mean": high,
            "clip_ratio/high_max": largest["clip_high"],
            "clip_ratio/region_mean": low + high,
            "sampling/sampling_logp_difference/mean": mean("gap"),
            "sampling/sampling_logp_difference/max": largest["gap"],
        }
        if "kl" in total:
            metrics["kl"] = mean("kl")
        for name, called in _RATIOS.items():
            if name not in total:
                continue
            metrics[f"{called}/mean"] = mean(name)
            metrics[f"{called}/max"] = jnp.where(some, largest[name], 0)
            metrics[f"{called}/min"] = jnp.where(some, smallest[name], 0)
        return metrics


def learning_rate(opt_state: PyTree) -> Metrics:
    """The learning rate, where `optax.inject_hyperparams` has written down just one."""
    is_number = lambda _, value: isinstance(value, jax.Array)  # Not a schedule's state.
    found = optax.tree.get_all_with_path(opt_state, "learning_rate", is_number)
    if len(found) != 1:
        return {}
    return {"learning_rate": found[0][1].astype(jnp.result_type(float))}


_FIRST = lambda values: values[0, 0]
_LAST = lambda values: values[-1, -1]
# Later updates have moved the policy on purpose: the gap to the sampler is the first's.
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
    """One number of each kind for all updates: the mean where nothing else is said."""
    return {
        name: _OVER_UPDATES.get(name, jnp.mean)(values)
        for name, values in metrics.items()
    }


def choose(finite: Bool[Array, ""], new: PyTree, old: PyTree) -> PyTree:
    """The new values if the step is taken, else the old ones."""
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
