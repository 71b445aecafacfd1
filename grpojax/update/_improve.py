"""Phase 4, update: (policy, Trajectory, Advantages) -> policy'."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from .. import sharding
from ..policy import AbstractPolicy
from ..sharding import spmd
from ..types import FloatLike, Metrics, Prompt, Trajectory
from ._batches import check_minibatches, make_batch, Reference as Reference, split
from ._config import UpdateConfig
from ._log_prob import LogProbs
from ._metrics import (
    choose,
    learning_rate,
    MetricAccumulator,
    over_updates,
    stays_finite,
)
from .loss import Batch, LossInputs, LossWeights, Objective
from .packed import balance_tokens, expert_shares, pack_rows, packed_gradient


class Rows(NamedTuple):
    """Rows of a minibatch, on axes `[prompt group ...]`."""

    tokens: Array
    batch: Batch
    weights: LossWeights


class SharedInputs(NamedTuple):
    """Arguments of the loss that are the same for all rows."""

    policy: AbstractPolicy
    objective: Objective
    temperature: FloatLike
    shares: Float[Array, " expert"] | None = None


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
    teacher: AbstractPolicy | None = None,
    config: UpdateConfig = UpdateConfig(),
    validate: Callable[[Batch, LossWeights], Batch] | None = None,
) -> tuple[AbstractPolicy, PyTree, Metrics]:
    """`epochs · minibatches` optimizer updates on one trajectory.

    **Arguments:**

    - `policy`, `opt_state`: the policy, and the optimizer state over its trainable
        arrays, `eqx.filter(policy, policy.trainable())`.
    - `trajectory`: sampled completions, with the temperature of their sampler.
    - `advantages`: per row, or per token.
    - `keep`: mask of the rows that contribute to the loss; all rows when `None`.
    - `objective`: the loss.
    - `optimizer`: an optax transformation; its schedules count updates.
    - `reference`: KL reference policy, or a function that derives it from `policy`.
    - `teacher`: of a distillation: any policy of the same tokenizer.
    - `config`: epochs, minibatches, and the size of a microbatch.
    - `validate`: called on each minibatch and its loss weights; returns the minibatch.

    **Returns:** the policy, its optimizer state, and the metrics. An update whose
    gradient or result is not finite changes nothing and is counted in
    `skipped_updates`.

    **Raises:** `ValueError` if minibatches do not divide the batch, for an importance
    correction without recomputed log-probs, and for an `opt_state` that does not match
    `optimizer`.
    """
    update, start, minibatches = plan(
        policy,
        opt_state,
        trajectory,
        advantages,
        keep,
        objective=objective,
        optimizer=optimizer,
        reference=reference,
        teacher=teacher,
        config=config,
        validate=validate,
    )
    epoch = lambda carry, _: jax.lax.scan(update.step, carry, minibatches)
    (params, opt_state), metrics = jax.lax.scan(epoch, start, length=config.epochs)
    return eqx.combine(params, update.static), opt_state, over_updates(metrics)


def plan(
    policy: AbstractPolicy,
    opt_state: PyTree,
    trajectory: Trajectory,
    advantages: Float[Array, "prompt group *time"],
    keep: Bool[Array, "prompt group"] | None = None,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    reference: Reference | None,
    teacher: AbstractPolicy | None = None,
    config: UpdateConfig,
    validate: Callable[[Batch, LossWeights], Batch] | None = None,
) -> tuple["Update", tuple[PyTree, PyTree], PyTree]:
    """The update on a minibatch, what it starts from, and all minibatches.

    The arguments and errors are those of `improve`.
    """
    prompts, group = check_minibatches(config.minibatches, *trajectory.terminated.shape)
    sharding.check_prompts("prompts / minibatches", prompts)
    padded = prompts * group * trajectory.tokens.shape[-1] // spmd.shards()
    tokens = config.microbatch_tokens(padded)
    others = reference, teacher if objective.distills else None
    batch = make_batch(
        policy, trajectory, advantages, keep, objective, others, config, tokens
    )
    params, static = eqx.partition(policy, policy.trainable())
    _check_state(optimizer, opt_state, params)
    update = Update(
        objective=objective,
        optimizer=optimizer,
        static=static,
        temperature=trajectory.temperature,
        vocab_size=trajectory.vocab_size,
        tokens=tokens,
        logits_chunk=config.chunk,
        validate=validate,
    )
    minibatches = split(
        config.minibatches, trajectory.prompt, (trajectory.tokens, batch)
    )
    return update, (params, opt_state), minibatches


@dataclasses.dataclass(frozen=True)
class Update:
    """The optimizer update on one minibatch, with the constants that all updates share.

    **Fields:**

    - `objective`, `optimizer`, `validate`: as in `improve`.
    - `static`: the policy without its trainable arrays.
    - `temperature`, `vocab_size`: the trajectory's.
    - `tokens`: of a microbatch, in each shard.
    - `logits_chunk`: `UpdateConfig.chunk`.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    static: PyTree
    temperature: FloatLike
    vocab_size: int | None
    tokens: int
    logits_chunk: int | None
    validate: Callable[[Batch, LossWeights], Batch] | None

    def step(self, carry: tuple[PyTree, PyTree], minibatch: PyTree):
        """One optimizer update on one minibatch: the body of a `lax.scan`."""
        params, opt_state = carry
        shared, prompt, rows = self.inputs(params, minibatch)
        # On a mesh of `data` alone each replica accumulates over its own rows, and only
        # the sums are communicated; else the compiler partitions one call.
        gradients, metrics = spmd.shard_map_data_parallel(
            self.gradient, shared, prompt, rows
        )
        gradients = jax.tree.map(lambda x: jnp.sum(x, axis=0), gradients)
        gradients, metrics = sharding.constrain(gradients), metrics.all_reduce()
        norm = optax.tree.norm(gradients)
        # Accumulated in float32 at least; the optimizer's state has the params' dtype.
        gradients = jax.tree.map(lambda g, p: g.astype(p.dtype), gradients, params)
        updates, new_state = self.optimizer.update(gradients, opt_state, params)
        new = optax.apply_updates(params, updates), new_state
        # Of the result, too: in float16 Adam's epsilon is 0, and 0 / 0 no number.
        finite = jnp.isfinite(norm) & stays_finite(new, carry)
        skipped = 1 - finite.astype(norm.dtype)
        metrics = metrics.metrics() | learning_rate(new_state)
        metrics |= {"grad_norm": norm, "skipped_updates": skipped}
        if (shares := shared.shares) is not None:
            metrics["router/max_load"] = jnp.max(shares) / jnp.mean(shares)
        return choose(finite, new, carry), metrics

    def inputs(
        self, params: PyTree, minibatch: PyTree
    ) -> tuple[SharedInputs, Prompt, Rows]:
        """The arguments of `gradient` for a minibatch."""
        prompt, (tokens, batch) = minibatch
        weights = self.objective.loss_weights(batch)
        if self.validate is not None:
            batch = self.validate(batch, weights)
        rows = Rows(tokens, batch, weights)
        (prompt, rows), _ = balance_tokens(batch.mask, (prompt, rows))
        policy = eqx.combine(params, self.static)
        shares = None
        if self.objective.balances:
            of = prompt, rows.tokens, rows.batch.mask
            shares = expert_shares(policy, *of, self.tokens)
        shared = SharedInputs(policy, self.objective, self.temperature, shares)
        return shared, prompt, rows

    def gradient(self, shared: SharedInputs, prompt: Prompt, rows: Rows):
        """Gradient and metrics of a replica's rows, with a leading axis of one."""

        def loss(log_probs: LogProbs, included: Bool[Array, "prompt group"]):
            log_prob, entropy, *balance = log_probs
            # What is longer than the rows of this microbatch is not looked at.
            narrow = lambda x: x[..., : log_prob.shape[-1]]
            batch, weights = jax.tree.map(narrow, (rows.batch, rows.weights))
            batch = dataclasses.replace(batch, mask=batch.mask & included[:, :, None])
            log_prob = jnp.where(batch.mask, log_prob, 0)
            inputs = LossInputs(log_prob, entropy, batch, weights, *balance)
            loss, measured = shared.objective(inputs)
            clips_rows = shared.objective.clips_rows
            return loss, MetricAccumulator.from_microbatch(
                loss, measured, inputs, included, clips_rows
            )

        found = packed_gradient(
            shared.policy,
            pack_rows(prompt, rows.tokens, rows.batch.mask, self.tokens),
            loss,
            temperature=shared.temperature,
            vocab_size=self.vocab_size,
            chunk=self.logits_chunk,
            shares=shared.shares,
        )
        return jax.tree.map(lambda x: x[None], found)


def _check_state(
    optimizer: optax.GradientTransformation, opt_state: PyTree, params: PyTree
):
    shapes = lambda tree: jax.tree.map(
        lambda x: (jnp.shape(x), jnp.result_type(x)), tree
    )
    wanted = jax.eval_shape(optimizer.init, params)
    if shapes(wanted) != shapes(opt_state):
        raise ValueError(
            "The optimizer's state must belong to the optimizer, over the trainable "
            f"arrays. Received {jax.tree.structure(opt_state)} where the optimizer "
            f"expects {jax.tree.structure(wanted)}: pass the same optimizer to `init` "
            "and the step, or create a new state with `optimizer.init`."
        )
