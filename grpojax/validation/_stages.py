"""The invariants of each stage, as functions of the arrays that they concern."""

import jax.numpy as jnp
from jaxtyping import Array

from ..types import Rewards, Trajectory
from ._invariants import Invariants


_TOKENS, _ROWS = "prompt group time", "prompt group"


def _by_name(field: str, arrays: dict[str, Array]) -> dict[str, Array]:
    return {f"{field}[{name!r}]": array for name, array in arrays.items()}


def check_rollout(invariants: Invariants, trajectory: Trajectory):
    """Prompts, sampled tokens, log-probs, versions and rewards of a trajectory."""
    prompt, sampled = trajectory.prompt, trajectory.sampled
    log_prob, version = trajectory.log_prob, trajectory.version
    invariants.shape("prompt prefix", **{"prompt.tokens": prompt.tokens})
    invariants.shape("prompt", **{"prompt.length": prompt.length})
    invariants.shape(_TOKENS, tokens=trajectory.tokens, sampled=sampled)
    invariants.shape(_TOKENS, log_prob=log_prob, version=version)
    invariants.shape(_ROWS, terminated=trajectory.terminated)
    invariants.shape(_ROWS, **_by_name("rewards", trajectory.rewards))
    invariants.require(
        "a prompt's length is at least 1 and at most its width",
        (prompt.length >= 1) & (prompt.length <= prompt.tokens.shape[1]),
        prompt.length,
        "An empty prompt needs a beginning-of-sequence token.",
    )
    invariants.require(
        "token ids are at least 0",
        trajectory.tokens >= 0,
        trajectory.tokens,
        "Padding is 0, and not `sampled`.",
    )
    invariants.require(
        "a row's first position is sampled, unless none is",
        sampled[:, :, 0] | ~jnp.any(sampled, axis=-1),
        jnp.argmax(sampled, axis=-1),
        "Completions are right-padded and begin with a turn of the policy.",
    )
    _check_log_prob(invariants, "log_prob", log_prob, sampled)
    invariants.require(
        "`log_prob` is 0 where no token was sampled",
        sampled | (log_prob == 0),
        log_prob,
        "Padding and an environment's replies have none.",
    )
    invariants.require(
        "`version` is at least 0 where a token was sampled, and -1 elsewhere",
        jnp.where(sampled, version >= 0, version == -1),
        version,
        "It numbers the policy that sampled the token.",
    )
    invariants.require(
        "a row that terminated has sampled a token",
        (trajectory.lengths > 0) | ~trajectory.terminated,
        trajectory.lengths,
        "The token that ends a turn is `sampled`.",
    )
    for name, reward in trajectory.rewards.items():
        invariants.require(
            f"reward {name!r} is finite",
            ~jnp.isinf(reward),
            reward,
            "NaN marks a row to which the component does not apply.",
        )
    rewards = jnp.stack([x.astype(jnp.float32) for x in trajectory.rewards.values()])
    invariants.require(
        "a reward is a number in every row",
        ~jnp.all(jnp.isnan(rewards), axis=0),
        rewards[0],
        "An environment returns a component that applies to the row.",
    )


def _check_log_prob(invariants: Invariants, name: str, values: Array, mask: Array):
    invariants.require(
        f"`{name}` is finite and at most 0 where a token was sampled",
        ~mask | (jnp.isfinite(values) & (values <= 0)),
        values,
        "It is the natural logarithm of a softmax at the sampler's temperature.",
    )


def check_rewarded(invariants: Invariants, trajectory: Trajectory, rewards: Rewards):
    """A trajectory, and the totals, components and lengths of its rewards."""
    invariants.enter("rollout")
    check_rollout(invariants, trajectory)
    invariants.enter("rewarded")
    invariants.shape(_ROWS, total=rewards.total, valid=rewards.valid, keep=rewards.keep)
    invariants.shape(_ROWS, lengths=rewards.lengths)
    invariants.shape(_ROWS, **_by_name("components", rewards.components))
    invariants.require(
        "the total is finite where it is valid",
        ~rewards.valid | jnp.isfinite(rewards.total),
        rewards.total,
        "A row to which no reward applies is not `valid`.",
    )
    for name, reward in rewards.components.items():
        invariants.require(
            f"component {name!r} is finite",
            ~jnp.isinf(reward),
            reward,
            "NaN marks a row to which the component does not apply.",
        )
    invariants.require(
        "`lengths` counts the tokens that a row sampled",
        rewards.lengths == trajectory.lengths,
        rewards.lengths,
        "Take `trajectory.lengths`.",
    )


def check_advantaged(
    invariants: Invariants, trajectory: Trajectory, rewards: Rewards, advantages: Array
):
    """A trajectory, its rewards, and the advantages of its rows or tokens."""
    check_rewarded(invariants, trajectory, rewards)
    invariants.enter("advantaged")
    axes = _ROWS if advantages.ndim < 3 else _TOKENS
    invariants.shape(axes, advantages=advantages)
    invariants.require(
        "advantages are finite",
        jnp.isfinite(advantages),
        advantages,
        "A group's std may be 0: give the estimator an `eps`.",
    )
    rows = rewards.valid.reshape(*rewards.valid.shape, *(1,) * (advantages.ndim - 2))
    invariants.require(
        "a row whose reward is not valid has advantage 0",
        rows | (advantages == 0),
        advantages,
        "It is excluded from every statistic.",
    )


def check_train_step(
    invariants: Invariants,
    mask: Array,
    weight: Array,
    advantages: Array,
    log_probs: dict[str, Array],
):
    """What a loss reads of each token: its weight, advantage and log-probs."""
    invariants.shape(_TOKENS, mask=mask, weight=weight, **log_probs)
    axes = "prompt group 1" if advantages.shape[-1] == 1 else _TOKENS
    invariants.shape(axes, advantages=advantages)
    invariants.require(
        "a weight is finite and at least 0, and 0 outside the mask",
        jnp.where(mask, jnp.isfinite(weight) & (weight >= 0), weight == 0),
        weight,
        "Only tokens that the policy sampled are trained on.",
    )
    invariants.require(
        "an advantage is finite where there are tokens to train on",
        ~mask | jnp.isfinite(advantages),
        advantages,
        "Validate the stage 'advantaged'.",
    )
    for name, log_prob in log_probs.items():
        _check_log_prob(invariants, name, log_prob, mask)


def check_train_ready(
    invariants: Invariants, mask: Array, weight: Array, advantages: Array, log_probs
):
    """As `check_train_step`, with log-probs of the old policy."""
    if "old" not in log_probs:
        invariants.fail(
            "`log_probs` has the old policy's",
            str(sorted(log_probs)),
            "Take the sampler's record, or recompute them before the first update.",
        )
    check_train_step(invariants, mask, weight, advantages, log_probs)
