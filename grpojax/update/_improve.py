"""Phase 4, update: (policy, Trajectory, Advantages) -> policy'."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from .. import masked
from ..policy import AbstractPolicy, completion_hidden, token_log_prob
from ..types import Metrics, Prompt, Trajectory
from ._objective import Objective
from ._scores import Frozen, Scores


# Elements of the largest block of logits that exists at a time: 32 MiB in float32.
_LOGITS_BLOCK = 2**23


def score(
    policy: AbstractPolicy,
    prompt: Prompt,
    tokens: Int[Array, "prompt group time"],
    *,
    temperature: Float[ArrayLike, ""] = 1.0,
    chunk: int | None = None,
) -> tuple[Float[Array, "prompt group time"], Float[Array, "prompt group time"]]:
    """Teacher-forced log-probabilities and entropies of a batch of completions.

    Each prompt is run once for its group, and the vocabulary projection is computed in
    chunks that are recomputed in the backward pass: no array of
    `prompt · group · time · vocab` entries ever exists.

    **Arguments:**

    - `policy`: the policy that scores.
    - `prompt`, `tokens`: as in `Trajectory`.
    - `temperature`: divides the logits.
    - `chunk`: positions projected at a time; by default 2²³ / vocab.

    **Returns:** log-probabilities and entropies, nats.
    """
    hidden = jax.vmap(lambda p, t: completion_hidden(policy, p, t))(prompt, tokens)
    count = tokens.size
    if chunk is None:
        chunk = max(_LOGITS_BLOCK // policy.vocab_size, 1)
    chunk = min(chunk, count)
    blocks = -(-count // chunk)

    def split(x):
        x = x.reshape(count, *x.shape[3:])
        padding = [(0, blocks * chunk - count)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, padding).reshape(blocks, chunk, *x.shape[1:])

    @jax.checkpoint
    def block(operands):
        hidden, tokens = operands
        return token_log_prob(policy.logits(hidden), tokens, temperature)

    scores = jax.lax.map(block, (split(hidden), split(tokens)))
    join = lambda x: x.reshape(-1)[:count].reshape(tokens.shape)
    return jax.tree.map(join, scores)


def _split(tree: PyTree, parts: int, prompts: int, group: int) -> PyTree:
    """Cuts `[prompt group ...]` leaves into `parts`, on a new leading axis.

    Part `i` takes every `parts`-th prompt, so that a batch whose prompts are sharded
    over devices stays sharded the same way; when there are more parts than prompts, the
    members of a group are dealt out likewise.
    """
    by_prompt = math.gcd(parts, prompts)
    by_group = parts // by_prompt

    def cut(path, x):
        shared = path[0].name == "prompt"
        x = x.reshape(prompts // by_prompt, by_prompt, *x.shape[1:])
        x = jnp.moveaxis(x, 1, 0)
        if shared:
            return jnp.repeat(x, by_group, axis=0)
        x = x.reshape(*x.shape[:2], group // by_group, by_group, *x.shape[3:])
        x = jnp.moveaxis(x, 3, 1)
        return x.reshape(parts, *x.shape[2:])

    return jax.tree_util.tree_map_with_path(cut, tree)


class _Batch(eqx.Module):
    prompt: Prompt
    tokens: Int[Array, "prompt group time"]
    frozen: Frozen


def _check_parts(prompts: int, group: int, **parts: int):
    for name, count in parts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(
                f"improve: {name} must be a positive integer. Received {count!r}."
            )
        by_prompt = math.gcd(count, prompts)
        if group % (count // by_prompt):
            raise ValueError(
                f"improve: {name} must divide the prompts, or share a divisor with "
                f"them and divide the group by the rest. Received {name}={count} for "
                f"{prompts} prompts x {group} samples"
                + (" (what a minibatch holds)." if name == "microbatches" else ".")
            )
        prompts, group = prompts // by_prompt, group // (count // by_prompt)


def improve(
    policy: AbstractPolicy,
    opt_state: PyTree,
    trajectory: Trajectory,
    advantages: Float[Array, "prompt group *time"],
    keep: Bool[Array, "prompt group"] | None = None,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    reference: AbstractPolicy | None = None,
    temperature: Float[ArrayLike, ""] = 1.0,
    epochs: int = 1,
    minibatches: int = 1,
    microbatches: int = 1,
    recompute: bool = False,
    chunk: int | None = None,
) -> tuple[AbstractPolicy, PyTree, Metrics]:
    """Takes `epochs · minibatches` optimizer steps on one trajectory.

    **Arguments:**

    - `policy`, `opt_state`: what evolves; `optimizer.init` saw the policy's float
        arrays, `eqx.filter(policy, eqx.is_inexact_array)`.
    - `trajectory`: what was sampled.
    - `advantages`: of each row, or of each token.
    - `keep`: rows that are trained on; all of them when `None`.
    - `objective`: the loss.
    - `optimizer`: an optax transformation; its schedules count optimizer updates.
    - `reference`: the policy of a KL penalty.
    - `temperature`: the one that the tokens were sampled at.
    - `epochs`: passes over the trajectory.
    - `minibatches`: optimizer steps in each pass, each on its share of the prompts.
    - `microbatches`: parts of a minibatch whose gradients are added up, for memory: the
        result does not depend on them.
    - `recompute`: take the old log-probabilities from the policy before the first
        update instead of the sampler's record.
    - `chunk`: positions whose logits exist at a time.

    **Returns:** the policy, its optimizer state, and the metrics. A step whose gradient
    is not finite changes nothing and is counted in `skipped_updates`.

    **Raises:** `ValueError` when the parts do not divide the batch.
    """
    prompts, group, _ = trajectory.tokens.shape
    _check_parts(prompts, group, minibatches=minibatches, microbatches=microbatches)
    if epochs < 1:
        raise ValueError(f"improve: epochs must be at least 1. Received {epochs}.")
    mask = trajectory.sampled
    if keep is not None:
        mask = mask & keep[:, :, None]
    if advantages.ndim == 2:
        advantages = advantages[:, :, None]
    score_all = lambda p: _score_frozen(
        p, trajectory, microbatches * minibatches, temperature, chunk
    )
    old, entropy = trajectory.log_prob, None
    once = epochs * minibatches == 1
    if recompute or objective.entropy_filter is not None:
        # One update on the policy's own samples: old is the current policy, for free.
        on_policy = recompute and once and objective.importance is None
        if not on_policy or objective.entropy_filter is not None:
            fresh, entropy = score_all(policy)
            old = fresh if recompute else old
        old = None if on_policy else old
    frozen = Frozen(
        advantage=advantages,
        mask=mask,
        old=old,
        behavior=trajectory.log_prob,
        reference=None if reference is None else score_all(reference)[0],
        entropy=entropy,
    )
    batch = _Batch(trajectory.prompt, trajectory.tokens, frozen)
    parts = _split(batch, minibatches, prompts, group)
    params, static = eqx.partition(policy, eqx.is_inexact_array)

    def measure(params, part):
        policy = eqx.combine(params, static)
        log_prob, entropy = score(
            policy, part.prompt, part.tokens, temperature=temperature, chunk=chunk
        )
        log_prob = jnp.where(part.frozen.mask, log_prob, 0)
        scores = Scores(log_prob, entropy, part.frozen)
        loss, measured = objective(scores)
        return loss, _summarize(loss, measured, scores)

    def step(carry, part):
        params, opt_state = carry
        part = dataclasses.replace(part, frozen=objective.prepare(part.frozen))
        size = part.tokens.shape[:2]
        micro = _split(part, microbatches, *size)
        gradients, sums = _accumulate(measure, params, micro)
        norm = optax.tree.norm(gradients)
        updates, new_state = optimizer.update(gradients, opt_state, params)
        new_params = optax.apply_updates(params, updates)
        finite = jnp.isfinite(norm)
        choose = lambda new, old: jnp.where(finite, new, old)
        params = jax.tree.map(choose, new_params, params)
        opt_state = jax.tree.map(choose, new_state, opt_state)
        return (params, opt_state), _finish(sums, norm, finite)

    def epoch(carry, _):
        return jax.lax.scan(step, carry, parts)

    carry, metrics = jax.lax.scan(epoch, (params, opt_state), length=epochs)
    params, opt_state = carry
    return eqx.combine(params, static), opt_state, _over_updates(metrics)


def _score_frozen(policy, trajectory, parts, temperature, chunk):
    """Scores without a gradient, part by part so that memory follows microbatches."""
    prompts, group, _ = trajectory.tokens.shape
    no_scores = Frozen(jnp.zeros((prompts, group, 1)), trajectory.sampled)
    batch = _Batch(trajectory.prompt, trajectory.tokens, no_scores)

    def one(part):
        return score(
            policy, part.prompt, part.tokens, temperature=temperature, chunk=chunk
        )

    scores = jax.lax.map(one, _split(batch, parts, prompts, group))
    join = lambda x: jax.lax.stop_gradient(_join(x, prompts, group))
    return jax.tree.map(join, scores)


def _join(x: Array, prompts: int, group: int) -> Array:
    """The inverse of `_split` for one array."""
    parts = x.shape[0]
    by_prompt = math.gcd(parts, prompts)
    by_group = parts // by_prompt
    x = x.reshape(by_prompt, by_group, *x.shape[1:])
    # (by_prompt, by_group, prompt, group, ...) -> (prompt, by_prompt, group, by_group)
    x = jnp.moveaxis(x, (2, 0, 3, 1), (0, 1, 2, 3))
    return x.reshape(prompts, group, *x.shape[4:])


def _accumulate(measure, params, micro) -> tuple[PyTree, dict[str, Any]]:
    """Adds up gradients and sums over microbatches, with one buffer for each."""
    gradient = jax.value_and_grad(measure, has_aux=True)
    first = jax.tree.map(lambda x: x[0], micro)
    shapes = jax.eval_shape(lambda: gradient(params, first))
    (_, sums), gradients = shapes
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), gradients)
    start = {
        name: jnp.full(x.shape, _IDENTITY.get(name.split(":")[0], 0), x.dtype)
        for name, x in sums.items()
    }

    def add(carry, part):
        gradients, sums = carry
        (_, more), fresh = gradient(params, part)
        gradients = jax.tree.map(jnp.add, gradients, fresh)
        sums = {
            name: _COMBINE.get(name.split(":")[0], jnp.add)(sums[name], more[name])
            for name in sums
        }
        return (gradients, sums), None

    (gradients, sums), _ = jax.lax.scan(add, (zeros, start), micro)
    return gradients, sums


# A measurement's name says how its parts are put together: "max:", "min:", or a sum.
_COMBINE = {"max": jnp.maximum, "min": jnp.minimum}
_IDENTITY = {"max": -jnp.inf, "min": jnp.inf}


def _summarize(loss, measured, scores: Scores) -> dict[str, Array]:
    mask = scores.mask
    count = lambda x: jnp.sum(x.astype(loss.dtype))
    sums = {name: jnp.sum(x) for name, x in measured.items()}
    low, high = measured["clip_low"], measured["clip_high"]
    row = lambda x: masked.mean(x, mask, axis=-1)
    sums["tokens"] = count(mask)
    sums["loss"] = loss
    sums["min:clip_low"] = jnp.min(row(low))
    sums["max:clip_high"] = jnp.max(row(high))
    ratio = measured["ratio"]
    sums["max:ratio"] = jnp.max(jnp.where(mask, ratio, 0))
    sums["min:ratio"] = jnp.min(jnp.where(mask, ratio, jnp.inf))
    if scores.frozen.behavior is not None:
        gap = masked.fill(jnp.abs(scores.log_prob - scores.frozen.behavior), mask)
        sums["gap"] = jnp.sum(gap)
        sums["max:gap"] = jnp.max(gap)
    return jax.lax.stop_gradient(sums)


def _finish(sums: dict[str, Array], norm, finite) -> Metrics:
    """One update's metrics, under TRL's names where the meaning is the same."""
    tokens = jnp.maximum(sums["tokens"], 1)
    low, high = sums["clip_low"] / tokens, sums["clip_high"] / tokens
    return {
        "loss": sums["loss"],
        "entropy": sums["entropy"] / tokens,
        "kl": sums["kl"] / tokens,
        "ratio/mean": sums["ratio"] / tokens,
        "ratio/max": sums["max:ratio"],
        "ratio/min": jnp.minimum(sums["min:ratio"], sums["max:ratio"]),
        "clip_ratio/low_mean": low,
        "clip_ratio/low_min": sums["min:clip_low"],
        "clip_ratio/high_mean": high,
        "clip_ratio/high_max": sums["max:clip_high"],
        "clip_ratio/region_mean": low + high,
        "sampling/sampling_logp_difference/mean": sums["gap"] / tokens,
        "sampling/sampling_logp_difference/max": sums["max:gap"],
        "grad_norm": norm,
        "skipped_updates": 1 - finite.astype(norm.dtype),
    }


def _over_updates(metrics: dict[str, Array]) -> Metrics:
    """Over `[epoch minibatch]` updates: means, but extremes stay, and counts add up."""

    def reduce(name: str, values: Array) -> Array:
        if name == "skipped_updates":
            return jnp.sum(values)
        if name.startswith("sampling/"):
            return values[0, 0]  # Later updates have moved the policy on purpose.
        if name.endswith("max"):
            return jnp.max(values)
        return jnp.min(values) if name.endswith("min") else jnp.mean(values)

    return {name: reduce(name, values) for name, values in metrics.items()}
