"""An update taken apart: what every row and every prompt has contributed to it."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from .. import masked
from ..policy import AbstractPolicy
from ..types import Metrics, Prompt, Trajectory
from ._batches import Reference, split
from ._config import UpdateConfig
from ._improve import plan, Rows, SharedInputs, Update
from ._metrics import over_updates
from .loss import LoadBalance, LossInputs, Objective
from .packed import masked_log_probs


class RowInspection(eqx.Module):
    """What each row, and each of its tokens, has contributed to the update it is in.

    **Fields:**

    - `log_prob`, `entropy`, `ratio`: of each token under the policy before the update,
        `[epoch prompt group time]`; 0 outside the mask.
    - `clip_low`, `clip_high`: tokens at which the trust region binds.
    - `weight`: of each token in the loss.
    - `loss`: of each row, `[epoch prompt group]`; those of a minibatch add up to its
        loss.
    - `grad_norm`: the norm of the gradient of that.
    - `grad_cosine`: the cosine of that gradient with the minibatch's; 0 for a row whose
        gradient is 0.
    """

    log_prob: Float[Array, "*epoch prompt group time"]
    entropy: Float[Array, "*epoch prompt group time"]
    ratio: Float[Array, "*epoch prompt group time"]
    clip_low: Bool[Array, "*epoch prompt group time"]
    clip_high: Bool[Array, "*epoch prompt group time"]
    weight: Float[Array, "*epoch prompt group time"]
    loss: Float[Array, "*epoch prompt group"]
    grad_norm: Float[Array, "*epoch prompt group"]
    grad_cosine: Float[Array, "*epoch prompt group"]


class PromptInspection(eqx.Module):
    """The gradients of the prompts of each update, and how much they agree.

    **Fields:**

    - `grad_norm`: the norm of each prompt's gradient, `[epoch minibatch prompt]`; the
        gradients of a minibatch add up to its own.
    - `grad_cosine`: the cosine of each with the minibatch's gradient.
    - `signal`, `noise`: unbiased estimates of the squared norm of the expected
        gradient, which may be negative, and of the variance of a prompt's,
        `[epoch minibatch]`; NaN for a single prompt.

    With g[p] = P · the gradient of prompt p, and G their mean over P prompts,

        signal = (P |G|² - mean |g|²) / (P - 1)
        noise = (mean |g|² - |G|²) / (1 - 1 / P)

    Source: McCandlish et al., "An Empirical Model of Large-Batch Training",
    arXiv:1812.06162, appendix A.1.
    """

    grad_norm: Float[Array, "*update prompt"]
    grad_cosine: Float[Array, "*update prompt"]
    signal: Float[Array, "*update"]
    noise: Float[Array, "*update"]

    @property
    def noise_scale(self) -> Float[Array, "*update"]:
        """noise / signal: a batch of so many prompts has as much signal as noise.

        NaN where the estimate of the signal is not positive.
        """
        safe = jnp.where(self.signal > 0, self.signal, 1)
        return jnp.where(self.signal > 0, self.noise / safe, jnp.nan)


class Inspection(eqx.Module):
    """An update taken apart, by row and by prompt."""

    rows: RowInspection
    prompts: PromptInspection


def inspect(
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
) -> tuple[AbstractPolicy, PyTree, Metrics, Inspection]:
    """`improve`, and what every row has contributed to it.

    The updates are those of `improve`, one after the other; before each the gradient
    of every row of its minibatch is computed alone, which takes as many backward passes
    of one row. On one device: of arrays that are not sharded.

    The arguments and errors are those of `improve`.

    **Returns:** what `improve` returns, and the inspection.

    !!! example

        ```python
        policy, opt_state, metrics, inspection = inspect(
            policy, opt_state, trajectory, advantages,
            objective=algorithms.grpo().objective, optimizer=optimizer,
        )
        loudest = inspection.rows.grad_norm[0].argmax()
        ```
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
    )

    def step(carry, minibatch):
        rows, prompts = _inspect_minibatch(update, carry[0], minibatch)
        carry, metrics = update.step(carry, minibatch)
        return carry, (metrics, rows, prompts)

    epoch = lambda carry, _: jax.lax.scan(step, carry, minibatches)
    (params, opt_state), found = jax.lax.scan(epoch, start, length=config.epochs)
    metrics, rows, prompts = found
    rows = _joined(config.minibatches, trajectory, rows)
    policy = eqx.combine(params, update.static)
    return policy, opt_state, over_updates(metrics), Inspection(rows, prompts)


def _joined(
    count: int, trajectory: Trajectory, rows: PyTree[Array, " T"]
) -> PyTree[Array, " T"]:
    """The rows of all minibatches, `[epoch minibatch prompt group ...]`, in order."""
    shape = trajectory.terminated.shape
    number = jnp.arange(trajectory.terminated.size).reshape(shape)
    _, number = split(count, trajectory.prompt, number)
    order = jnp.argsort(number.reshape(-1))

    def join(x: Array) -> Array:
        flat = x.reshape(x.shape[0], order.size, *x.shape[4:])
        return flat[:, order].reshape(x.shape[0], *shape, *x.shape[4:])

    return jax.tree.map(join, rows)


def _inspect_minibatch(
    update: Update, params: PyTree, minibatch: PyTree
) -> tuple[RowInspection, PromptInspection]:
    shared, prompt, rows = update.inputs(params, minibatch)
    squeeze = lambda tree: jax.tree.map(lambda x: x[0], tree)
    total, _ = squeeze(update.gradient(shared, prompt, rows))
    size = optax.tree.norm(total)
    # A microbatch of one row: it is as long as the horizon at most.
    time = rows.tokens.shape[-1]
    narrow = dataclasses.replace(update, tokens=min(update.tokens, time))

    def cosine_of(gradient: PyTree, norm: Array) -> Array:
        product = jax.tree.map(lambda x, y: jnp.vdot(x, y), gradient, total)
        lengths = norm * size
        safe = jnp.where(lengths > 0, lengths, 1)
        return jnp.where(lengths > 0, optax.tree.sum(product) / safe, 0)

    def of_row(summed: PyTree, inputs: tuple[Prompt, Rows]):
        alone = jax.tree.map(lambda x: x[None, None], inputs[1])
        one = jax.tree.map(lambda x: x[None], inputs[0])
        gradient, metrics = squeeze(narrow.gradient(shared, one, alone))
        norm = optax.tree.norm(gradient)
        summed = jax.tree.map(jnp.add, summed, gradient)
        return summed, (metrics.total["loss"], norm, cosine_of(gradient, norm))

    def of_prompt(inputs: tuple[Prompt, Rows]):
        prompt, rows = inputs
        group = rows.tokens.shape[0]
        repeated = jax.tree.map(lambda x: jnp.stack([x] * group), prompt)
        zeros = jax.tree.map(jnp.zeros_like, total)
        gradient, found = jax.lax.scan(of_row, zeros, (repeated, rows))
        norm = optax.tree.norm(gradient)
        return found, norm, cosine_of(gradient, norm)

    found, norm, agreement = jax.lax.map(of_prompt, (prompt, rows))
    loss, row_norm, row_cosine = found
    tokens = _inspect_tokens(update, shared, prompt, rows)
    of_rows = RowInspection(
        **tokens,
        weight=jnp.where(rows.batch.mask, rows.weights.token, 0),
        loss=loss,
        grad_norm=row_norm,
        grad_cosine=row_cosine,
    )
    return of_rows, PromptInspection(norm, agreement, *_noise(norm, size))


def _inspect_tokens(
    update: Update, shared: SharedInputs, prompt: Prompt, rows: Rows
) -> dict[str, Array]:
    """Log-probs, entropies, ratios and clips of every token of a minibatch."""
    found = masked_log_probs(
        shared.policy,
        prompt,
        rows.tokens,
        rows.batch.mask,
        update.tokens,
        temperature=update.temperature,
        vocab_size=update.vocab_size,
        chunk=update.logits_chunk,
    )
    # A load balance looks at the experts, and at no token's ratio.
    objective = shared.objective
    kept = tuple(x for x in objective.penalties if not isinstance(x, LoadBalance))
    objective = dataclasses.replace(objective, penalties=kept)
    log_prob, entropy, *_ = found
    _, measured = objective(LossInputs(log_prob, entropy, rows.batch, rows.weights))
    log_prob, entropy = (masked.fill(x, rows.batch.mask) for x in (log_prob, entropy))
    clips = {name: measured[name] > 0 for name in ("clip_low", "clip_high")}
    return {
        "log_prob": log_prob,
        "entropy": entropy,
        "ratio": measured["ratio"],
        **clips,
    }


def _noise(norms: Float[Array, " prompt"], size: Array) -> tuple[Array, Array]:
    count = norms.shape[0]
    if count < 2:
        unknown = jnp.full((), jnp.nan, norms.dtype)
        return unknown, unknown
    each, mean = jnp.mean((count * norms) ** 2), size**2
    return (count * mean - each) / (count - 1), (each - mean) / (1 - 1 / count)
