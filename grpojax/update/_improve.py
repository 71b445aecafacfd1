"""Phase 4, update: (policy, Trajectory, Advantages) -> policy'."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from .. import sharding
from ..policy import AbstractPolicy
from ..sharding import spmd
from ..types import Metrics, Trajectory
from ._objective import Objective
from ._score import check_minibatches, check_parts, Scored, split, streams_of
from ._scores import Frozen, Scores
from ._streams import evenly, gradient_in_parts, in_streams, score_in_parts
from ._surrogate import Number
from ._tally import choose, learning_rate, over_updates, Tally


Reference = AbstractPolicy | Callable[..., AbstractPolicy]
"""A policy to stay close to, or where to find it in the one that is trained."""


def improve(
    policy: AbstractPolicy,
    opt_state: PyTree,
    trajectory: Trajectory,
    advantages: Float[Array, "prompt group *time"],
    keep: Bool[Array, "prompt group"] | None = None,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    reference: Reference | None = None,
    temperature: Number = 1.0,
    epochs: int = 1,
    minibatches: int = 1,
    microbatches: int | None = None,
    recompute: bool = False,
    chunk: int | None = None,
) -> tuple[AbstractPolicy, PyTree, Metrics]:
    """Takes `epochs · minibatches` optimizer steps on one trajectory.

    **Arguments:**

    - `policy`, `opt_state`: what evolves; `optimizer.init` saw the arrays that are
        trained, `eqx.filter(policy, policy.trainable())`.
    - `trajectory`: what was sampled.
    - `advantages`: of each row, or of each token.
    - `keep`: rows that are trained on; all of them when `None`.
    - `objective`: the loss.
    - `optimizer`: an optax transformation; its schedules count optimizer updates.
    - `reference`: the policy of a KL penalty, or a function of `policy` that is it.
    - `temperature`: the one that the tokens were sampled at.
    - `epochs`: passes over the trajectory.
    - `minibatches`: optimizer steps in each pass, each on its share of the prompts.
    - `microbatches`: parts of a minibatch whose gradients are added up: the result
        does not depend on them. A prompt's rows are packed end to end in streams as
        wide as the horizon, and a part holds `prompts · group / microbatches` of all
        streams (with more parts than samples, of some prompts'): many parts take little
        memory, and when rows are short no time goes to streams that stay empty. By
        default as many streams as there are prompts.
    - `recompute`: take the old log-probabilities from the policy before the first
        update instead of the sampler's record.
    - `chunk`: positions whose logits exist at a time.

    **Returns:** the policy, its optimizer state, and the metrics. A step whose gradient
    is not finite changes nothing and is counted in `skipped_updates`.

    **Raises:** `ValueError` when the parts do not divide the batch, for an importance
    correction of the sampler's own record, and for another optimizer's state.
    """
    prompts, group = _check(trajectory, objective, epochs, minibatches, recompute)
    microbatches = group if microbatches is None else microbatches
    check_parts("microbatches", microbatches, prompts, group)
    by_prompt, at_a_time = streams_of(microbatches, group)
    share = "prompts / minibatches / microbatches"
    spmd.check_prompts(share, prompts // by_prompt)
    parts = minibatches * microbatches
    mask = trajectory.sampled
    mask = mask if keep is None else mask & keep[:, :, None]
    options = dict(temperature=temperature, chunk=chunk)
    again = lambda policy: score_in_parts(
        policy, trajectory.prompt, trajectory.tokens, mask, parts, **options
    )
    once = epochs * minibatches == 1
    old, entropy = _old(policy, trajectory, objective, again, recompute, once)
    if reference is not None and not isinstance(reference, AbstractPolicy):
        reference = reference(policy)
    frozen = Frozen(
        advantage=advantages if advantages.ndim == 3 else advantages[:, :, None],
        mask=mask,
        old=old,
        behavior=trajectory.log_prob,
        reference=None if reference is None else again(reference)[0],
        entropy=entropy,
    )
    params, static = eqx.partition(policy, policy.trainable())
    _check_state(optimizer, opt_state, params)

    def gradient(whole, part):
        policy, objective, temperature = whole
        prompt, (tokens, frozen) = part

        def loss(scored, here):
            masked = dataclasses.replace(frozen, mask=frozen.mask & here[:, :, None])
            log_prob, entropy = scored
            scores = Scores(jnp.where(masked.mask, log_prob, 0), entropy, masked)
            loss, measured = objective(scores)
            return loss, Tally.of(loss, measured, scores, here)

        streams = in_streams(prompt, tokens, frozen.mask, at_a_time * tokens.shape[0])
        options = dict(temperature=temperature, chunk=chunk)
        return gradient_in_parts(policy, streams, loss, **options)

    def accumulate(whole, prompt, rows):
        found = _accumulate(gradient, whole, split(by_prompt, prompt, rows))
        return jax.tree.map(lambda x: x[None], found)

    def step(carry, part):
        params, opt_state = carry
        prompt, (tokens, frozen) = part
        rows = tokens, objective.prepare(frozen)
        (prompt, rows), _ = evenly(frozen.mask, by_prompt, (prompt, rows))
        # Replicas add up their own parts, and tell one another only the sum.
        whole = eqx.combine(params, static), objective, temperature
        gradients, tally = spmd.shard_map_data_parallel(accumulate, whole, prompt, rows)
        gradients = jax.tree.map(lambda x: jnp.sum(x, axis=0), gradients)
        gradients, tally = sharding.constrain(gradients), tally.over_replicas()
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(norm)
        # Added up in float32 at least; the optimizer's state is in the weights' dtype.
        gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, params)
        updates, new_state = optimizer.update(gradients, opt_state, params)
        new = optax.apply_updates(params, updates), new_state
        metrics = tally.metrics() | learning_rate(new_state)
        skipped = 1 - finite.astype(norm.dtype)
        metrics |= {"grad_norm": norm, "skipped_updates": skipped}
        return choose(finite, new, carry), metrics

    batches = split(minibatches, trajectory.prompt, (trajectory.tokens, frozen))
    epoch = lambda carry, _: jax.lax.scan(step, carry, batches)
    start = params, opt_state
    (params, opt_state), metrics = jax.lax.scan(epoch, start, length=epochs)
    return eqx.combine(params, static), opt_state, over_updates(metrics)


def _old(
    policy: AbstractPolicy,
    trajectory: Trajectory,
    objective: Objective,
    again: Callable[[AbstractPolicy], Scored],
    recompute: bool,
    once: bool,
) -> tuple[Float[Array, "prompt group time"] | None, Array | None]:
    """Old log-probabilities, and entropies where a filter asks for them."""
    old, entropy = trajectory.log_prob, None
    if objective.entropy_filter is not None or (recompute and not once):
        log_prob, entropy = again(policy)
        old = log_prob if recompute else old
    if recompute and once:
        # The old policy is the current one: its ratio is exactly 1, and costs nothing.
        old = None
    return old, entropy


def _check(
    trajectory: Trajectory,
    objective: Objective,
    epochs: int,
    minibatches: int,
    recompute: bool,
) -> tuple[int, int]:
    """Refuses what cannot be; the prompts and samples of a minibatch."""
    sizes = check_minibatches(minibatches, *trajectory.terminated.shape)
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1. Received {epochs}.")
    if objective.importance is not None and not recompute:
        raise ValueError(
            "An importance correction weighs the old policy, scored again, "
            "against the sampler's record. Received recompute=False, which takes the "
            "record for both, so that every weight would be 1. Pass recompute=True, or "
            "leave the correction out."
        )
    return sizes


def _check_state(
    optimizer: optax.GradientTransformation, opt_state: PyTree, params: PyTree
):
    shapes = lambda tree: jax.tree.map(
        lambda x: (jnp.shape(x), jnp.result_type(x)), tree
    )
    wanted = jax.eval_shape(optimizer.init, params)
    if shapes(wanted) != shapes(opt_state):
        raise ValueError(
            "The optimizer's state is that of the optimizer, over the arrays that are "
            f"trained. Received {jax.tree.structure(opt_state)} where the optimizer "
            f"begins with {jax.tree.structure(wanted)}: give `init` and the step one "
            "optimizer, or begin a new state with `optimizer.init`."
        )


def _accumulate(
    gradient: Callable[[PyTree, PyTree], tuple[PyTree, Tally]],
    whole: PyTree,
    parts: PyTree,
) -> tuple[PyTree, Tally]:
    """Adds up the gradients and tallies of parts, with one buffer for each."""
    first = jax.tree.map(lambda x: x[0], parts)
    if jax.tree.leaves(parts)[0].shape[0] == 1:
        return gradient(whole, first)  # A loop would have to be traced for its shapes.
    gradients, tally = eqx.filter_eval_shape(gradient, whole, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), gradients)
    zeros = sharding.constrain(zeros)

    def add(carry, part):
        gradients, tally = carry
        fresh, more = gradient(whole, part)
        return (jax.tree.map(jnp.add, gradients, fresh), tally + more), None

    return jax.lax.scan(add, (zeros, tally.empty()), parts)[0]
